"""The guard: waits for one process to end, then stops what that process owned. It outlives even a kill -9.

Run as `python -m ops.guard HOME PID STARTED`; it leads its own session, so Ctrl-C in a terminal does not reach it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ops import process
from ops.process import Identity
from riskflow.settings import PROJECT

LOOK_EVERY_S = 0.25


@contextlib.contextmanager
def guarding(home: Path, owner: Identity) -> Iterator[None]:
    """While the body runs, the owner's death stops what it owns in this home."""
    command = [sys.executable, "-m", "ops.guard", str(home), str(owner.pid), repr(owner.started)]
    nothing = subprocess.DEVNULL
    with process.log_file(home, "guard").open("ab") as log:
        guard = subprocess.Popen(command, cwd=PROJECT, stdin=nothing, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def sweep(home: Path, owner: Identity) -> None:
    """Stop what the owner left behind."""
    with process.locked(home):
        process.stop(home, [record for record in process.records(home).values() if record.owner == owner])


def main(home: Path, owner: Identity) -> None:
    while owner.alive():
        time.sleep(LOOK_EVERY_S)
    sweep(home, owner)
    from ops import local

    local.write_addresses(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Identity(int(sys.argv[2]), float(sys.argv[3])))
