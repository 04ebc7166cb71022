"""What is learned from and when: labels that were known, outputs by models that had not seen the row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import average_precision_score
from sklearn.tree import DecisionTreeClassifier

from batch.calibration import calibration_points
from batch.export import onnx_parity
from batch.pipeline import Pipeline, PipelineFile
from batch.train import Learner, Span, Trained, train
from batch.training_set import TrainingSet, resolve_labels, training_set
from riskflow.columns import Text
from riskflow.errors import RiskflowError
from riskflow.scoring import Calibration
from tests.unit.training_cases import DAY, START, linear, rows, small_plan, tree


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers the noise (one value for each row) that it learned from and was asked about."""

    seen: ClassVar[list[tuple[str, Any]]] = []

    def fit(self, x: Any, y: Any) -> Spy:
        self.classes_ = np.array([0, 1])
        self.seen.append(("fit", x.copy()))
        return self

    def predict_proba(self, x: Any) -> Any:
        self.seen.append(("predict", x.copy()))
        share = 1 / (1 + np.exp(-x[:, 0] / 100))
        return np.column_stack([1 - share, share])


# ---- labels ----------------------------------------------------------------------------------------------------------


def history(*labels: tuple[str, bool, int, str | None]) -> dict[str, Any]:
    """Events p0, p1, p2 on days 0, 1, 2 and labels (event, verdict, day known, source)."""
    n = len(labels)
    empty = Text.of([Text.MISSING] * 3)
    missing = [Text.of([Text.MISSING] * n)] * 3
    return {
        "_kind": np.array([0, 0, 0, *[1] * n], np.int8),
        "_id": joined(Text.of_strings(["p0", "p1", "p2"]), Text.of_strings(f"l{i}" for i in range(n))),
        "at_ms": np.array([START, START + DAY, START + 2 * DAY, *[START + day * DAY for _, _, day, _ in labels]]),
        "card": joined(Text.of_strings(["a", "b", "c"]), missing[0]),
        "shop": joined(empty, missing[1]),
        "amount": np.ones(3 + n),
        "channel": np.zeros(3 + n, np.int32),
        "note": joined(empty, missing[2]),
        "noise": np.zeros(3 + n),
        "payment_id": joined(empty, Text.of_strings(e for e, _, _, _ in labels)),
        "is_fraud": np.array([np.nan] * 3 + [float(v) for _, v, _, _ in labels]),
        "source": joined(empty, Text.of_strings(s for _, _, _, s in labels)),
    }


def joined(a: Text, b: Text) -> Text:
    return Text.of([*a.values(), *b.values()])


def frauds(columns: dict[str, Any], sources: tuple[str, ...] = (), known_before_day: int = 999) -> list[float]:
    plan = small_plan()
    labels = resolve_labels(plan, columns, sources, START + known_before_day * DAY)
    return training_set(plan, columns, labels, START, START + 3 * DAY).fraud.tolist()


def test_a_label_that_is_known_after_the_cut_off_does_not_count() -> None:
    columns = history(("p0", True, 5, None), ("p1", True, 9, None))
    assert frauds(columns, known_before_day=9) == [1, 0, 0]
    assert frauds(columns, known_before_day=10) == [1, 1, 0]


def test_the_newest_label_wins_whatever_order_they_stand_in() -> None:
    assert frauds(history(("p0", False, 8, None), ("p0", True, 5, None))) == [0, 0, 0]
    assert frauds(history(("p0", False, 5, None), ("p0", True, 8, None))) == [1, 0, 0]


def test_a_stronger_source_wins_over_a_newer_label() -> None:
    columns = history(("p0", True, 5, "bank"), ("p0", False, 8, "robot"))
    assert frauds(columns) == [0, 0, 0]
    assert frauds(columns, ("bank", "robot")) == [1, 0, 0]
    assert frauds(columns, ("robot", "bank")) == [0, 0, 0]
    assert frauds(columns, ("bank",)) == [1, 0, 0], "a source that is not named is weaker than those that are"


def test_a_correction_and_its_correction_count() -> None:
    first = ("p0", False, 5, "bank")
    assert frauds(history(first, ("p0", True, 6, "bank")), ("bank",)) == [1, 0, 0]
    back = [first, ("p0", True, 6, "bank"), ("p0", False, 7, "bank"), ("p0", True, 9, "robot")]
    assert frauds(history(*back), ("bank", "robot")) == [0, 0, 0], "the newest of the strongest source"


def test_a_label_without_a_verdict_says_nothing() -> None:
    assert frauds(history(("p0", True, 5, "bank"), ("p0", math.nan, 8, "bank"), ("p1", math.nan, 6, None))) == [1, 0, 0]


VERDICTS = st.tuples(
    st.sampled_from(["p0", "p1", "p2"]), st.booleans(), st.integers(3, 8), st.sampled_from(["bank", "desk", None])
)


@examples(max_examples=80, deadline=None)
@given(st.lists(VERDICTS, max_size=12), st.permutations(["bank", "desk"]), st.integers(3, 9))
def test_the_truth_is_that_of_a_plain_search(labels: list[Any], sources: list[str], cut_off: int) -> None:
    def naive(event: str) -> float:
        known = [(i, v) for i, v in enumerate(labels) if v[0] == event and v[2] < cut_off]
        if not known:
            return 0.0
        rank = {source: strength for strength, source in enumerate(reversed(sources), 1)}
        return float(max(known, key=lambda found: (rank.get(found[1][3], 0), found[1][2], found[0]))[1][1])

    assert frauds(history(*labels), tuple(sources), cut_off) == [naive(e) for e in ("p0", "p1", "p2")]


def test_silence_means_genuine_only_after_the_slowest_source_had_its_time() -> None:
    quick = Pipeline(PipelineFile(maturity="14d", label_maturity={"desk": "2d"}))
    slow = Pipeline(PipelineFile(maturity="14d", label_maturity={"desk": "2d", "bank": "45d"}))
    assert (quick.maturity_ms // DAY, slow.maturity_ms // DAY) == (14, 45)


def test_days_are_cut_where_the_caller_says() -> None:
    columns = history(("p1", True, 5, None))
    plan = small_plan()
    found = training_set(plan, columns, resolve_labels(plan, columns), START + 1, START + 2 * DAY)
    assert found.columns["_id"].strings() == ["p1"]  # type: ignore[union-attr]


def test_a_training_set_survives_parquet(tmp_path: Path) -> None:
    data = rows(300)
    data.write(tmp_path / "frame.parquet")
    again = TrainingSet.read(tmp_path / "frame.parquet")
    assert again.columns.keys() == data.columns.keys()
    for name, column in data.columns.items():
        if isinstance(column, Text):
            assert again.columns[name].values() == column.values()  # type: ignore[union-attr]
        else:
            assert again.columns[name].dtype == column.dtype
            np.testing.assert_array_equal(again.columns[name], column)
    np.testing.assert_array_equal(again.fraud, data.fraud)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_the_validation_span_is_the_newest_part_and_never_most_of_a_short_one() -> None:
    data = rows(days=28)
    span = Span.of(data, 7 * DAY, 4)
    assert span.last == 4
    newest = span.validation(data).at_ms
    assert newest.min() >= START + 21 * DAY - DAY
    assert newest.max() == data.at_ms.max()
    short = rows(days=7)
    length = np.ptp(Span.of(short, 7 * DAY, 4).validation(short).at_ms)
    assert length <= 2.01 * DAY


def test_no_model_is_asked_out_of_time_about_rows_it_could_have_learned_from() -> None:
    Spy.seen.clear()
    plan, data = small_plan(lower=Spy, spy=Spy), rows()
    time_of = {np.float32(v): at for v, at in zip(data.columns["amount"], data.at_ms, strict=True)}
    learner = Learner(plan, data, Span.of(data, 7 * DAY, 4))
    learner.race("spy")
    lower = [(what, [time_of[v] for v in x[:, 0]]) for what, x in Spy.seen if x.shape[1] == 1]
    assert [what for what, _ in lower] == ["fit", "predict"] * 4
    for (_, learned), (_, asked) in zip(lower[::2], lower[1::2], strict=True):
        assert max(learned) < min(asked)


def test_an_upper_layer_never_learns_from_what_a_lower_one_says_of_rows_it_learned_from() -> None:
    Spy.seen.clear()
    plan, data = small_plan(lower=lambda: DecisionTreeClassifier(random_state=0), spy=Spy), rows()
    learner = Learner(plan, data, Span.of(data, 7 * DAY, 4))
    trained = learner.race("spy")
    learned = [x for what, x in Spy.seen if what == "fit"]
    assert len(learned) == 1
    assert not np.isnan(learned[0]).any(), "rows without out-of-time outputs are left out"
    part = learner.part
    inner = (part > 0) & (part < learner.last)
    assert len(learned[0]) == inner.sum()
    # A tree of any depth knows by heart what it has learned: seen rows would be told apart without a mistake.
    assert average_precision_score(data.fraud[inner], learned[0][:, 0]) < 0.6
    assert len(trained.outputs) == (part == learner.last).sum()


def test_the_race_is_won_on_the_validation_span_and_only_the_winner_learns_from_all() -> None:
    plan, data = small_plan(linear=linear, tree=tree), rows()
    raced = train(plan, data, Span.of(data, 7 * DAY, 4), ["tree", "linear"])
    assert raced[0].average_precision == max(t.average_precision for t in raced)
    assert raced[0].models.keys() == {"hint", "verdict"}
    assert raced[1].models == {}
    matrix = np.column_stack([np.linspace(0, 1, 50), np.linspace(0, 1, 50)])
    assert onnx_parity(raced[0].estimators["verdict"], raced[0].models["verdict"], matrix) <= 1e-5


def test_a_candidate_survives_the_way_from_one_task_to_the_next(tmp_path: Path) -> None:
    plan, data = small_plan(), rows()
    trained = train(plan, data, Span.of(data, 7 * DAY, 4), ["linear"])[0]
    trained.write(tmp_path)
    again = Trained.read(tmp_path)
    assert again.models == trained.models
    assert again.outputs.tobytes() == trained.outputs.tobytes()
    assert (again.candidate, again.average_precision) == ("linear", trained.average_precision)


def test_training_twice_gives_the_same_models() -> None:
    plan, data = small_plan(), rows()
    span = Span.of(data, 7 * DAY, 4)
    first, second = (train(plan, data, span, ["tree"])[0] for _ in range(2))
    assert first.models == second.models


def test_too_few_frauds_is_said_before_anything_is_fitted() -> None:
    data = rows()
    with pytest.raises(RiskflowError, match=r"4000 rows to learn from, 0 of them frauds: both classes are needed"):
        train(small_plan(), TrainingSet(data.columns, np.zeros(4000)), Span.of(data, 7 * DAY, 4), ["linear"])


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_tells_shares_and_never_changes_who_ranks_higher() -> None:
    rng = np.random.default_rng(3)
    true = rng.beta(0.5, 8, 50_000)
    fraud = (rng.random(50_000) < true).astype(np.float64)
    output = true**2 / (true**2 + (1 - true) ** 2)  # far too sure of itself
    calibrated = Calibration.of(calibration_points(output, fraud))
    grid = np.linspace(0, 1, 10_001)
    points = calibration_points(output, fraud)
    assert points is not None
    assert (np.diff(np.interp(grid, points["x"], points["y"])) > 0).all(), "it rises strictly"
    assert abs(calibrated(output).mean() - fraud.mean()) < 0.002
    top = output > np.quantile(output, 0.99)
    assert abs(calibrated(output)[top].mean() - fraud[top].mean()) < 0.05
    before, after = (average_precision_score(fraud, s) for s in (output, calibrated(output)))
    assert abs(before - after) < 1e-3, "six decimals are enough"


def test_a_handful_of_frauds_calibrates_nothing() -> None:
    assert calibration_points(np.linspace(0, 1, 1000), np.eye(1, 1000).ravel()) is None
