"""A bar with the time left on a terminal, a few lines elsewhere; data on standard output stays apart."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 4  # of each piece of work, where there is no terminal

Tell = Callable[[str, int, int], None]  # what, how much of it is done, of how much


@contextmanager
def bar(first: str) -> Iterator[Tell]:
    """Says `first` until it is told what is done and how far it has come; one piece of work after another."""
    if not sys.stderr.isatty():
        print(f"{first} ...", file=sys.stderr, flush=True)
        yield Lines()
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
        tasks = {first: shown.add_task(first, total=None)}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                shown.remove_task(tasks.popitem()[1])
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done, total=total)

        yield tell


class Lines:
    """A line for each part of the work that is done."""

    def __init__(self) -> None:
        self._what, self._said, self._began = "", 0, time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._said, self._began = what, 0, time.monotonic()
        part = LINES * done // max(total, 1)
        if part > self._said:
            self._said = part
            left_s = (time.monotonic() - self._began) * (total - done) / max(done, 1)
            print(f"{what}: {done:,} of {total:,}, {left_s:.0f} s left", file=sys.stderr, flush=True)
