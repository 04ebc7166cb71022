"""What a person sees: a line for each step, and a live table while events stream; without a terminal, lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cli.demo.observer import View

LINE_EVERY_S = 5.0
Look = Callable[[], View]


class Screen:
    """Talks on standard error, so that standard output carries data only."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._live: Live | None = None
        self._look: Look | None = None
        self._next_line = 0.0
        self._remark = ""

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.console.is_terminal:
            self.console.print(f"[dim]{self._clock()}[/dim] {_escaped(line)}")
        else:
            print(f"{self._clock()} {line}", file=sys.stderr, flush=True)

    def begin(self, title: str) -> None:
        """What is being done now; the line is written over when it is done."""
        if self.console.is_terminal and self._live is None:
            self.console.print(f"[dim]{self._clock()} {_escaped(title)} ...[/dim]", end="\r", no_wrap=True)

    def remark(self, line: str) -> None:
        """What happens beside the stream; it stands under the live table."""
        self._remark = line
        if self._live is None and line:
            self.say(line)

    @contextmanager
    def streaming(self, look: Look) -> Iterator[None]:
        """While the block runs, the live table stands below everything that is said."""
        self._look = look
        try:
            if not self.console.is_terminal:
                yield
                return
            with Live(console=self.console, get_renderable=self._picture, refresh_per_second=1, transient=True) as live:
                self._live = live
                yield
        finally:
            self._live = self._look = None

    def tick(self) -> None:
        """Without a terminal: a line about the stream, every few seconds."""
        if self._look is None or self._live is not None or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_EVERY_S
        self.say(one_line(self._look()))

    def table(self, title: str, rows: dict[str, str], data: bool) -> None:
        """Two columns; to standard output when it is the result."""
        console = Console(highlight=False) if data else self.console
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in rows.items():
            table.add_row(name, _escaped(value))
        console.print()
        console.print(table)

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"

    def _picture(self) -> Any:
        return picture(self._look(), self._remark) if self._look else ""


def picture(view: View, remark: str) -> Group:
    """The live table and the most suspicious events."""
    figures = Table(box=None, padding=(0, 3, 0, 0))
    for name in ("events/s", "p50", "p99", "scored", "waiting", "approve", "review", "decline", "bundle"):
        figures.add_column(name, justify="right")
    figures.add_row(
        f"{view.per_s:,.0f}", f"{view.p50_ms:.0f} ms", f"{view.p99_ms:.0f} ms", f"{view.scores:,}", f"{view.waiting:,}",
        *(f"{view.actions[a]:,}" for a in ("approve", "review", "decline")), f"{view.version or '-'}",
    )  # fmt: skip
    suspects = Table(box=None, padding=(0, 3, 0, 0))
    for name in ("score", "most suspicious", "action", "why"):
        suspects.add_column(name, no_wrap=True, overflow="ellipsis")
    for s in view.suspects:
        suspects.add_row(f"{s.score:.3f}", _escaped(s.about), s.action, _escaped("; ".join(s.reasons)))
    return Group("", figures, "", suspects, "", _escaped(remark))


def one_line(view: View) -> str:
    """The same in one line."""
    actions = " ".join(f"{name} {view.actions[name]}" for name in ("approve", "review", "decline"))
    return (
        f"{view.per_s:,.0f} events/s, p50 {view.p50_ms:.0f} ms, p99 {view.p99_ms:.0f} ms, {view.scores:,} scored, "
        f"{view.waiting:,} waiting, {actions}, bundle {view.version or '-'}"
    )


def _escaped(text: str) -> str:
    """Ids and reasons are data: what looks like markup in them stays text."""
    from rich.markup import escape

    return escape(text)
