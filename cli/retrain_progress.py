"""How a retraining is shown: a table that changes on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

MARKS = {"success": "✔", "failed": "✘", "upstream_failed": "–", "skipped": "–", "running": "▶", "up_for_retry": "↻"}


class Progress(Protocol):
    """Where tasks and remarks go. `state` is Airflow's word; a task may be told as often as one likes."""

    def say(self, line: str) -> None: ...

    def task(self, name: str, state: str, detail: str = "") -> None: ...


@contextmanager
def progress() -> Iterator[Progress]:
    """What fits to where standard error goes; data on standard output stays apart."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    with Live() as live:
        yield live


class Lines:
    """One line for each change."""

    def __init__(self) -> None:
        self._started, self._states = time.monotonic(), dict[str, str]()

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def task(self, name: str, state: str, detail: str = "") -> None:
        if self._states.get(name) == state:
            return
        self._states[name] = state
        self.say(
            f"{time.monotonic() - self._started:6.1f} s  {MARKS.get(state, '·')} {name:32} {state} {detail}".rstrip()
        )


class Live:
    """A table of the tasks, drawn again when something changes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        self._rows: dict[str, tuple[str, str]] = {}
        self._screen = Screen(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Live:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._screen.__exit__(*error)

    def say(self, line: str) -> None:
        self._screen.console.print(line, highlight=False)

    def task(self, name: str, state: str, detail: str = "") -> None:
        from rich.table import Table

        self._rows[name] = (state, detail)
        table = Table("", "task", "state", "", box=None)
        for shown, (now, more) in self._rows.items():
            table.add_row(MARKS.get(now, "·"), shown, now, more)
        self._screen.update(table)
