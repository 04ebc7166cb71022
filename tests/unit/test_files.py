"""Files appear whole or not at all, and leave nothing beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batch.files import whole, write_text


def test_a_file_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with whole(path) as beside:
        beside.write_text("half")
        assert not path.exists()
        beside.write_text("whole")
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_content_is_on_the_disk_before_it_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a.json", list[tuple[bytes, bool]]()
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.pread(number, 9, 0), path.exists())))
    write_text(path, "content")
    assert synced == [(b"content", False)]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fails() -> None:
        with whole(path) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_processes_do_not_write_into_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    with whole(path) as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: 7)
        write_text(path, "theirs")
    assert path.read_text() == "mine"
