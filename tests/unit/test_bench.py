"""The measuring itself: every system is given the same job, and what is written down is what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batch.history import history_columns
from batch.replay import replay
from bench import chart, course, generated, prepare, report
from bench.clock import Arrivals, Meter
from bench.compare import RISKFLOW, table
from bench.course import Result
from bench.events import payments
from bench.peers import job, windows
from bench.peers.environment import once
from bench.scale import AXES, Measured, sentence
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.usecase import load_usecase

HOUR, DAY = 3_600_000, 86_400_000
TILES_OF_WINDOWS = {HOUR: 300_000, DAY: HOUR, 7 * DAY: HOUR, 30 * DAY: DAY}


@pytest.fixture
def own_usecases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Whatever a use case of bench changes in the environment is as it was before afterwards."""
    monkeypatch.setenv("RISKFLOW_USECASES", str(tmp_path))
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    """Few customers and terminals, so that windows fill up; two months, so that they empty again."""
    table = payments(600, customers=7, terminals=5)
    start = pl.col("occurred_at").first()
    return table.with_columns(occurred_at=start + 2 * (pl.col("occurred_at") - start))


def brute_force(ids: list[str], at_ms: list[int], amount: list[float]) -> np.ndarray:
    """Count and sum of each window before each event, by looking at all events that came before it."""
    rows = []
    for i, at in enumerate(at_ms):
        row: list[float] = []
        for window, tile in TILES_OF_WINDOWS.items():
            mine = [
                amount[j]
                for j in range(i)
                if ids[j] == ids[i] and (at - window) // tile <= at_ms[j] // tile <= at // tile
            ]
            row += (len(mine), sum(mine))
        rows.append(row)
    return np.array(rows)


def expected(history: pl.DataFrame) -> np.ndarray:
    at_ms, amount = history["occurred_at"].to_list(), history["amount"].to_list()
    return np.hstack([brute_force(history[e].to_list(), at_ms, amount) for e in ("customer_id", "terminal_id")])


def test_a_plain_job_gives_what_looking_at_all_events_gives(history: pl.DataFrame) -> None:
    states: dict[str, Any] = {}
    rows = [
        [
            *job.observe(states.setdefault(e["customer_id"], {}), e["occurred_at"], e["amount"]),
            *job.observe(states.setdefault(e["terminal_id"], {}), e["occurred_at"], e["amount"]),
        ]
        for e in history.iter_rows(named=True)
    ]
    np.testing.assert_allclose(rows, expected(history))


def test_the_loops_windows_give_the_same(history: pl.DataFrame) -> None:
    at_ms, amount = history["occurred_at"].to_numpy(), history["amount"].to_numpy()
    rows = [windows.Windows().observe(history[e].to_list(), at_ms, amount) for e in ("customer_id", "terminal_id")]
    np.testing.assert_allclose(np.hstack(rows), expected(history), rtol=1e-6)


def test_riskflows_use_case_gives_the_same(history: pl.DataFrame, own_usecases: Path) -> None:
    plan = prepare.plan_of("peers_job")
    in_order = history.sort("occurred_at", "event_id")  # as history in files is folded
    columns = replay(plan, history_columns(plan, {"events": in_order})).columns
    rows = np.column_stack([np.asarray(columns[name]) for name in plan.model_inputs("risk")[1:]])
    np.testing.assert_allclose(rows, expected(in_order))


@pytest.mark.parametrize("observe", ["plain", "loops"])
def test_a_late_event_counts_in_its_own_time_and_leaves_newer_ones_alone(observe: str) -> None:
    now, late = 20_000 * DAY, 20_000 * DAY - 13 * TILES_OF_WINDOWS[HOUR]  # its tile has the newer one's place in a ring
    at_ms, amount = [now, late, now, late], [1.0, 10.0, 100.0, 1000.0]
    if observe == "plain":
        state: dict[str, Any] = {}
        rows = [job.observe(state, *event) for event in zip(at_ms, amount, strict=True)]
    else:
        rows = windows.Windows().observe(["a"] * 4, np.array(at_ms), np.array(amount)).tolist()
    assert rows[2][:2] == [1, 1]  # of the hour
    assert [row[2:4] for row in rows] == [[0, 0], [0, 0], [2, 11], [1, 10]]  # of the day


def test_a_generated_use_case_has_as_many_entities_and_features_as_asked_for(own_usecases: Path) -> None:
    for shape in (generated.Shape(1, 5, 1), generated.Shape(3, 100, 2), generated.Shape()):
        generated.write_usecase(own_usecases, shape)
        plan = Plan.of(load_usecase(shape.name, own_usecases))
        assert list(plan.entities) == shape.ids
        assert len(plan.features) == shape.features
        assert len(plan.model_inputs("risk")) == shape.features + 1


def test_its_model_has_as_many_trees_as_asked_for(own_usecases: Path) -> None:
    shape = generated.Shape(1, 5, 3)
    generated.write_usecase(own_usecases, shape)
    plan = Plan.of(load_usecase(shape.name, own_usecases))
    assert plan.usecase.models["risk"].candidates["boosted"]().max_iter == 3


def test_the_compared_model_has_100_trees(own_usecases: Path) -> None:
    bundle = prepare.fitted(prepare.plan_of("peers_job"), payments(500))
    assert trees(bundle.files["risk.onnx"]) == 100


def trees(onnx_bytes: bytes) -> int:
    import onnx

    (ensemble,) = [n for n in onnx.load_from_string(onnx_bytes).graph.node if n.op_type == "TreeEnsembleClassifier"]
    return len(set(next(a.ints for a in ensemble.attribute if a.name == "nodes_treeids")))


def test_every_point_of_every_axis_names_a_run() -> None:
    for axis in AXES:
        points = [axis.point(value) for value in axis.values]
        assert len({repr(p) for p in points}) == len(points)


def test_events_are_the_same_each_time_and_their_ids_are_unique() -> None:
    assert payments(1000).equals(payments(1000))
    assert payments(1000)["event_id"].n_unique() == 1000
    assert payments(1000)["occurred_at"].is_sorted()


def test_the_others_environment_is_made_once_and_again_when_what_it_is_made_of_changes(tmp_path: Path) -> None:
    source, folder = tmp_path / "requirements.txt", tmp_path / "python"
    source.write_text("a==1")
    made: list[Path] = []

    def make(where: Path) -> None:
        made.append(where)
        where.mkdir()

    for _ in range(2):
        once(folder, [source], make)
    assert made == [folder]
    source.write_text("a==2")
    once(folder, [source], make)
    assert made == [folder, folder]


def test_what_was_not_made_to_the_end_is_made_again(tmp_path: Path) -> None:
    def fail(where: Path) -> None:
        where.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        once(tmp_path / "jars", [], fail)
    once(tmp_path / "jars", [], Path.mkdir)
    once(tmp_path / "jars", [], fail)


# ---- what is made of a run -------------------------------------------------------------------------------------------


class Counter(Meter):
    """One CPU second every second."""

    def __init__(self) -> None:
        self.peak_mib = 100.0

    def used_s(self, from_ms: float, until_ms: float) -> float:
        return (until_ms - from_ms) / 1000


def came(*at_ms: int) -> Arrivals:
    return Arrivals([b"%d" % i for i in range(len(at_ms))], [b""] * len(at_ms), np.array(at_ms))


def test_the_time_runs_from_when_the_events_were_there_and_not_from_the_first_score() -> None:
    found = course.result(6, came(500, 900, 3000, 3100, 3900, 5000), 1000.0, Counter())
    assert found.per_s == 1  # 4 events in 4 s; those of the warm-up are not counted
    assert found.from_first_per_s == 2
    assert found.cpu_us == 1e6


def test_a_run_without_a_score_for_each_event_is_not_complete() -> None:
    assert course.result(3, came(1000, 2000, 3000), 0.5, Counter()).complete
    assert not course.result(4, came(1000, 2000, 3000), 0.5, Counter()).complete
    twice = Arrivals([b"a", b"b", b"b"], [b""] * 3, np.array([1000, 2000, 3000]))
    assert not course.result(2, twice, 0.5, Counter()).complete
    assert not course.result(3, twice, 0.5, Counter()).complete


def run(per_s: float, scores: int = 10) -> Result:
    return Result(10, scores, scores, per_s, per_s, per_s, 5.0, 100.0)


def test_the_table_has_medians_and_what_riskflow_is_to_each_system() -> None:
    found = {RISKFLOW: [run(100), run(500), run(300)], "bytewax": [run(100)], "quix": [run(200, scores=9)]}
    heading, ours, bytewax, quix = table(found)
    assert (heading[1], ours[1], ours[4]) == ("events/s", "**300** (100-500)", "")
    assert bytewax[4] == "3.00 times as fast"
    assert "not one score for each event" in quix[0]
    assert "not one score for each event" not in bytewax[0]


def test_a_sentence_says_what_one_more_costs() -> None:
    points = [(10, Measured(cost(20.0), 1.0, 500.0)), (110, Measured(cost(70.0), 1.0, 500.0))]
    assert "each one more between 10 and 110 costs 0.5 us of CPU an event" in sentence("features", points)
    same = [(10, Measured(cost(20.0), 1.0, 500.0)), (110, Measured(cost(19.0), 1.0, 500.0))]
    assert "costs nothing that is seen here" in sentence("features", same)


def cost(cpu_us: float) -> Result:
    return Result(10, 10, 10, 1000, 1000, 1000, cpu_us, 100.0)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n<!-- b -->\n<!-- /b -->\n"
    assert report.replaced(page, "a", "new") == page.replace("old", "new")
    assert report.replaced(report.replaced(page, "a", "new"), "a", "old") == page


@pytest.mark.parametrize("page", ["", "<!-- a -->", "<!-- /a --><!-- a -->", "<!-- a --><!-- /a --><!-- a -->"])
def test_a_page_without_one_pair_of_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="has not one"):
        report.replaced(page, "a", "new")


def test_the_benchmarks_page_has_the_marks_that_the_commands_write_to() -> None:
    page = report.PAGE.read_text()
    for mark in ("compare", "scale"):
        assert mark in report.replaced(page, mark, "")


def test_a_table_has_a_heading_and_a_line_for_each_row() -> None:
    assert report.markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_bars_are_as_long_as_their_values() -> None:
    svg = ElementTree.fromstring(chart.bars("a < b", [chart.Bar("one", 100), chart.Bar("two", 50, ours=True)]))
    widths = [float(r.attrib["width"]) for r in svg.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert "a < b" in "".join(svg.itertext())


def test_a_curve_has_a_point_for_each_value() -> None:
    svg = ElementTree.fromstring(chart.curves("t", [("x", ["1", "2", "3"], [1.0, 2.0, 4.0], "us")] * 4))
    circles = [float(c.attrib["cy"]) for c in svg.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(circles) == 12
    assert circles[0] > circles[1] > circles[2]
