"""Named points at which a test may kill this process: `RISKFLOW_KILL_AT=after_send:3` ends it at the third pass.

Passes count only once this process has sent scores: a kill of a worker that did nothing yet proves nothing.
Nothing happens unless the variable is set.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("RISKFLOW_KILL_AT", "").partition(":")
_left = int(_count or 1)
_scored = False


def scores_sent() -> None:
    """From now on passes count."""
    global _scored
    _scored = True


def reached(point: str) -> None:
    """Marks a point; kills the process when this is the one, passed as often as was asked for."""
    global _left
    if point != _name or not _scored:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
