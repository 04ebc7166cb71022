"""Compaction: the same rows in the same order, whenever it is killed and whoever reads meanwhile."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import lake, mend
from batch.compact import Compacted, compact_topic
from batch.lake import OFFSET, PARTITION, BrokenFile, part_name
from riskflow.names import Names
from tests.support import plan_of

TOPIC = "card_fraud.rejected"  # whose columns mean nothing to a reader
TODAY = "2026-02-10"
DAYS = ("2026-02-08", "2026-02-09", "2026-02-10")


def write(folder: Path, day: str, partition: int, first: int, last: int, shape: int = 0) -> Path:
    """A file as the archive writes it; not every offset has a row."""
    offsets = [o for o in range(first, last + 1) if o % 3 or o == first]
    columns = {PARTITION: [partition] * len(offsets), OFFSET: offsets, f"x{shape}": [o * 1.5 for o in offsets]}
    path = folder / TOPIC / f"date={day}" / part_name(partition, first, last)
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_parquet(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / TOPIC).rglob("*.parquet"))


def compacted(folder: Path, **options: Any) -> Compacted:
    out = Compacted()
    compact_topic(folder, TOPIC, out, TODAY, **{"grace_s": 0.0, **options})
    return out


@st.composite
def archives(draw: Any) -> list[tuple[str, int, int, int, int]]:
    """Files of two partitions over three days, some with other columns, some with gaps, some written twice."""
    out = []
    for partition in (0, 1):
        at = draw(st.integers(0, 5))
        for day in DAYS:
            for _ in range(draw(st.integers(0, 5))):
                at += draw(st.sampled_from([0, 0, 0, 4]))
                size = draw(st.integers(1, 6))
                out.append((day, partition, at, at + size - 1, draw(st.sampled_from([0, 0, 1]))))
                if draw(st.booleans()) and size > 2:
                    out.append((day, partition, at + 1, at + size - 2, 0))  # what another file covers
                at += size
    return out


@settings(max_examples=25, deadline=None)
@given(archive=archives(), killed_after=st.integers(0, 6), largest=st.sampled_from([1, 3_000, 10**9]))
def test_rows_and_order_stay_at_every_step(
    tmp_path_factory: Any, archive: list[Any], killed_after: int, largest: int
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    for file in archive:
        write(folder, *file)
    before = lake.read_topic(folder, TOPIC)
    ends, gaps = lake.ends(folder, TOPIC), lake.gaps(folder, TOPIC)

    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, killed_after)
        try:
            compacted(folder, largest=largest)
        except Killed:
            assert lake.read_topic(folder, TOPIC).equals(before)
    for _ in range(2 * len(archive) + 2):
        found = compacted(folder, largest=largest)
        assert lake.read_topic(folder, TOPIC).equals(before)
        if not found.made and not found.dropped:
            break
    else:
        raise AssertionError("compaction does not come to an end")
    assert (lake.ends(folder, TOPIC), lake.gaps(folder, TOPIC)) == (ends, gaps)
    assert not list((folder / TOPIC).rglob("*.tmp"))


class Killed(Exception):
    pass


def kill_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Ends the process, so to say, before the file system is changed the n-th time."""
    left = [steps]

    def counted(real: Any) -> Any:
        def changed(path: Path, *words: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(path, *words)

        return changed

    patch.setattr(Path, "rename", counted(Path.rename))
    patch.setattr(Path, "unlink", counted(Path.unlink))


def test_small_files_of_a_day_that_is_over_become_one(tmp_path: Path) -> None:
    for first in range(0, 50, 10):
        write(tmp_path, "2026-02-09", 0, first, first + 9)
    write(tmp_path, TODAY, 0, 50, 59)
    write(tmp_path, TODAY, 0, 60, 69)

    assert compacted(tmp_path).summary() == {"merged": 5, "made": 1, "dropped": 0, "broken": []}
    assert len(files(tmp_path)) == 8  # the small ones stay for whoever reads them now
    assert compacted(tmp_path).dropped == 5
    assert files(tmp_path) == ["part-0-0-49.parquet", "part-0-50-59.parquet", "part-0-60-69.parquet"]


def test_what_was_merged_stays_until_readers_have_ended(tmp_path: Path) -> None:
    write(tmp_path, "2026-02-09", 0, 0, 9)
    write(tmp_path, "2026-02-09", 0, 10, 19)
    compacted(tmp_path)
    assert compacted(tmp_path, grace_s=60.0).dropped == 0
    merged = tmp_path / TOPIC / "date=2026-02-09" / "part-0-0-19.parquet"
    os.utime(merged, (time.time() - 61, time.time() - 61))
    assert compacted(tmp_path, grace_s=60.0).dropped == 2


def test_the_small_ones_stay_while_the_merged_one_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "2026-02-09", 0, 0, 9)
    write(tmp_path, "2026-02-09", 0, 10, 19)
    compacted(tmp_path)
    merged = tmp_path / TOPIC / "date=2026-02-09" / "part-0-0-19.parquet"
    merged.write_bytes(merged.read_bytes()[:40])
    assert compacted(tmp_path).dropped == 0


def test_readers_meanwhile_read_every_row_once(tmp_path: Path) -> None:
    for first in range(0, 400, 4):
        write(tmp_path, "2026-02-09", 0, first, first + 3)
    before, ended, wrong = lake.read_topic(tmp_path, TOPIC), threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            if not lake.read_topic(tmp_path, TOPIC).equals(before):
                wrong.append("other rows")

    reader = threading.Thread(target=read)
    reader.start()
    for largest in (6_000, 20_000, 10**9):
        compacted(tmp_path, largest=largest)
        compacted(tmp_path, largest=largest)
    ended.set()
    reader.join()
    assert wrong == []
    assert len(files(tmp_path)) == 1


def test_a_broken_file_is_named_and_the_rest_is_compacted(tmp_path: Path) -> None:
    for first in range(0, 50, 10):
        write(tmp_path, "2026-02-09", 0, first, first + 9)
    broken = tmp_path / TOPIC / "date=2026-02-09" / part_name(0, 20, 29)
    broken.write_bytes(b"PAR1 and no more")

    found = compacted(tmp_path)

    assert found.broken == [str(broken)]
    assert found.merged == 4
    with pytest.raises(BrokenFile, match=r"part-0-20-29\.parquet cannot be read .* Run `riskflow mend`"):
        lake.read_topic(tmp_path, TOPIC)


def test_mending_sets_a_broken_file_aside_until_its_offsets_are_back(tmp_path: Path) -> None:
    from riskflow.settings import load

    plan, conf = plan_of(), load(home=tmp_path)
    folder = conf.lake_folder
    for first in (0, 10, 20):
        write(folder, "2026-02-09", 0, first, first + 9)
    whole = lake.read_topic(folder, TOPIC)
    broken = folder / TOPIC / "date=2026-02-09" / part_name(0, 10, 19)
    good = broken.read_bytes()
    broken.write_bytes(good[:-20])

    assert mend.mend(plan, conf).set_aside == [f"{TOPIC}/date=2026-02-09/part-0-10-19.parquet"]
    assert lake.missing(folder, TOPIC, 0, 10, 19) == [(10, 19)]
    assert lake.gaps(folder, TOPIC) == [(0, 10, 19)]
    assert mend.mend(plan, conf).summary() == {"looked_at": 2, "set_aside": [], "back": []}

    broken.write_bytes(good)  # what an archive does
    assert mend.mend(plan, conf).back == [f"{TOPIC}/date=2026-02-09/part-0-10-19.parquet.broken"]
    assert lake.read_topic(folder, TOPIC).equals(whole)


def test_a_file_with_a_wrong_byte_inside_is_found_by_a_deep_look(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": list(range(1000)), "b": [str(i) for i in range(1000)]}).write_parquet(path)
    raw = bytearray(path.read_bytes())
    raw[4:200] = bytes(196)
    path.write_bytes(bytes(raw))
    assert mend.why_broken(path) == ""
    assert mend.why_broken(path, deep=True)


@pytest.mark.parametrize(("topic", "column"), [
    *(("rows", name) for name in ("_kind", "_part_intake", "_log_intake", "_id", "at_ms", "_epoch", "_row")),
    ("g2.held", "at_ms"), ("scores", "event_id"),
])  # fmt: skip
def test_a_file_without_what_makes_it_rows_is_named_and_set_aside(tmp_path: Path, topic: str, column: str) -> None:
    from riskflow.settings import load

    conf, topic = load(home=tmp_path), f"card_fraud.{topic}"
    columns = lake.NEEDED[topic.rpartition(".")[2]]
    path = conf.lake_folder / topic / "date=2026-02-09" / part_name(0, 0, 1)
    path.parent.mkdir(parents=True)
    pl.DataFrame({name: [0, 1] for name in columns if name != column}).write_parquet(path)
    with pytest.raises(BrokenFile, match=rf"part-0-0-1\.parquet lacks the column {column}\. Run `riskflow mend`"):
        lake.read_topic(conf.lake_folder, topic)
    assert len(mend.mend(plan_of(), conf).set_aside) == 1
    pl.DataFrame({name: [0, 1] for name in columns}).write_parquet(path)
    assert mend.mend(plan_of(), conf).set_aside == []
    assert len(lake.read_topic(conf.lake_folder, topic)) == 2


def test_a_file_of_which_nothing_could_be_read_is_no_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "card_fraud.rows" / "date=2026-02-09" / part_name(0, 0, 1)
    path.parent.mkdir(parents=True)
    pl.DataFrame({OFFSET: pl.Series([], dtype=pl.Int64)}).write_parquet(path)
    assert len(lake.read_topic(tmp_path, "card_fraud.rows")) == 0
    assert mend.why_broken(path) == ""


def test_only_the_use_cases_own_topics_are_touched(tmp_path: Path) -> None:
    for name in ("card_fraud.rows", "card_fraud.g2.held", "card_fraud_two.rows", "_generations"):
        (tmp_path / name).mkdir()
    found = [path.name for path in lake.topic_folders(tmp_path, Names("card_fraud"))]
    assert found == ["card_fraud.g2.held", "card_fraud.rows"]
