"""A bar with the time left on a terminal, a few lines elsewhere; data on standard output stays apart."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 4  # where there is no terminal

Tell = Callable[[int, int], None]  # done, in all


@contextmanager
def bar(what: str, first: str) -> Iterator[Tell]:
    """Says `first` until it is told how far the work has come, then `what` with the time left."""
    if not sys.stderr.isatty():
        print(f"{first} ...", file=sys.stderr, flush=True)
        yield Lines(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(first, total=None)

        def tell(done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total)

        yield tell


class Lines:
    """A line for each part of the work that is done."""

    def __init__(self, what: str) -> None:
        self._what, self._said, self._began = what, 0, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        part = LINES * done // max(total, 1)
        if part > self._said:
            self._said = part
            took_s = time.monotonic() - self._began
            left_s = took_s * (total - done) / max(done, 1)
            print(f"{self._what} {done:,} of {total:,}, {left_s:.0f} s left", file=sys.stderr, flush=True)
