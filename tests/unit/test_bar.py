"""What a long command says while it works."""

from __future__ import annotations

import io
import sys

import pytest

from cli.bar import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(done: int) -> None:
    with bar("reading the past") as tell:
        for what in ("rows through customer_id", "events scored"):
            for part in range(done):
                tell(what, part + 1, done)


def test_without_a_terminal_there_are_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    work(1000)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "reading the past ..."
    assert lines[1].startswith("rows through customer_id: 250 of 1,000, ")
    assert lines[-1] == "events scored: 1,000 of 1,000, 0 s left"
    assert len(lines) == 9
    assert said.out == ""


def test_on_a_terminal_there_is_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    work(10)
    assert "events scored" in shown.getvalue()
    assert "10/10" in shown.getvalue()
    assert "0:00:00" in shown.getvalue()
