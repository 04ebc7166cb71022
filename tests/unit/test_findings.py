"""What of a look is worth telling: quality against scikit-learn, noise that says nothing, decay, storm control."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score

from batch import quality
from batch.findings import ESTIMATED, INPUTS, MEASURED, MISSING, chance_of_each, decayed, drifted, features_of
from batch.pipeline import Pipeline
from batch.pipeline_watch import Watch
from batch.profile import entry_of, independent
from batch.storm import Storm
from riskflow.columns import Text
from riskflow.declare import NUMBER
from riskflow.drift import SCORE, Reference, count, places
from riskflow.errors import DeclarationError
from tests.unit.training_cases import DAY, small_plan

HOUR = DAY // 24
POLICY = {"review": 0.5, "decline": 0.9}

# ---- quality ---------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.sampled_from([1, 5])), min_size=1, max_size=60))
def test_measured_quality_is_that_of_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    score, fraud, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    score /= 20
    found = quality.quality(score, fraud, POLICY, weight)
    flagged = score >= 0.5
    assert (found.events, found.frauds) == (weight.sum(), (weight * fraud).sum())
    if fraud.any():
        assert found.ap == pytest.approx(average_precision_score(fraud, score, sample_weight=weight))
        assert found.at["review"].recall == pytest.approx(recall_score(fraud, flagged, sample_weight=weight))
    else:
        assert found.ap is None
    if flagged.any():
        assert found.at["review"].precision == pytest.approx(precision_score(fraud, flagged, sample_weight=weight))
    assert found.at["decline"].events == weight[score >= 0.9].sum()


def test_rows_that_stand_for_many_tell_no_more_than_they_are() -> None:
    score, fraud = np.full(20, 0.7), np.repeat([1.0, 0.0], 10)
    alike = quality.quality(score, fraud, POLICY, np.full(20, 50.0))
    assert (alike.events, alike.at["review"].seen_on, alike.frauds_seen) == (1000, 20, 10)
    one_heavy = quality.quality(score, fraud, POLICY, np.append(np.ones(19), 1000.0))
    assert one_heavy.at["review"].seen_on < 1.1, "nearly all is told by one row"
    assert one_heavy.frauds_seen == 10


def test_calibrated_scores_tell_quality_without_labels() -> None:
    rng = np.random.default_rng(0)
    score = rng.beta(0.3, 4.0, 200_000).round(6)
    fraud = (rng.random(len(score)) < score).astype(float)
    told, came = quality.estimated(score, POLICY), quality.quality(score, fraud, POLICY)
    assert told.frauds == pytest.approx(came.frauds, rel=0.02)
    assert told.ap == pytest.approx(came.ap, rel=0.02)
    assert told.at["review"].precision == pytest.approx(came.at["review"].precision, rel=0.03)
    assert told.at["review"].recall == pytest.approx(came.at["review"].recall, rel=0.1)


def test_weeks_begin_on_monday_and_add_up() -> None:
    monday = 1_767_571_200_000  # 5 January 2026
    at_ms = monday + np.arange(-3, 18) * DAY
    rng = np.random.default_rng(0)
    score, fraud = rng.random(len(at_ms)), (rng.random(len(at_ms)) < 0.5).astype(float)
    weeks = quality.by_week(score, fraud, at_ms, POLICY)
    assert [w["from_ms"] for w in weeks] == [monday + i * 7 * DAY for i in (-1, 0, 1, 2)]
    assert [w["events"] for w in weeks] == [3, 7, 7, 4]
    assert weeks[1]["ap"] == pytest.approx(average_precision_score(fraud[3:10], score[3:10]))


def test_a_use_case_of_rules_has_no_thresholds() -> None:
    assert quality.quality(np.zeros(3), np.zeros(3), {"review": None, "decline": None}).at == {}


# ---- noise -----------------------------------------------------------------------------------------------------------

FEATURES = [f"f{i}" for i in range(8)]
LOOKS = 100


def world(rng: Any, customers: int, rows_each: int, *, alike: bool, shift: float = 0.0) -> dict[str, Any]:
    """Features of rows of some customers; alike: each customer's rows say the same."""
    who = np.repeat(np.arange(customers), rows_each)
    noise = {n: rng.normal(size=customers)[who] if alike else rng.normal(size=len(who)) for n in FEATURES}
    return {**noise, "f3": noise["f3"] + shift}


def findings(rng: Any, watch: Watch, customers: int, rows_each: int, *, naive: bool = False, **how: Any) -> list[str]:
    """What is found in a world, against one of 80 customers with 30 rows each. naive: every row is a sample."""
    then, now = (world(rng, *size, **w) for size, w in (((80, 30), {**how, "shift": 0}), ((customers, rows_each), how)))
    samples = how["alike"] and not naive
    size = {"independent": 80.0} if samples else {}
    reference = Reference.of({name: {**entry_of(NUMBER, column), **size} for name, column in then.items()})
    matrix = np.stack([now[n] for n in FEATURES], axis=1).astype(np.float32)
    table, score = reference.table(), np.zeros(len(matrix))
    count(places(reference, [("m", FEATURES)]), {"m": matrix}, score, np.arange(len(matrix)), table)
    independent = np.full(len(FEATURES), float(customers if samples else len(matrix)))
    return [
        f.name for f in drifted(watch, features_of(reference, table, independent, chance_of_each(watch, reference)))
    ]


def test_noise_says_nothing_where_events_are_few() -> None:
    """Fifty events in ten bins stray by more than 0.2 in most looks; what noise can do is known."""
    watch, rng = Watch(false_alarms=0.01), np.random.default_rng(0)
    alarms = sum(bool(findings(rng, watch, 50, 1, alike=False)) for _ in range(LOOKS))
    assert alarms <= 4  # one is expected
    known = Reference.of({n: entry_of(NUMBER, c) for n, c in world(rng, 80, 30, alike=False).items()})
    table, matrix = known.table(), rng.normal(size=(50, len(FEATURES))).astype(np.float32)
    count(places(known, [("m", FEATURES)]), {"m": matrix}, np.zeros(50), np.arange(50), table)
    assert known.psi(table).max() > 0.2


def test_noise_of_customers_says_nothing_though_they_have_many_rows() -> None:
    """Two thousand rows of forty customers are not two thousand samples."""
    watch, rng = Watch(false_alarms=0.01), np.random.default_rng(1)
    alarms = sum(bool(findings(rng, watch, 40, 50, alike=True)) for _ in range(LOOKS))
    assert alarms <= 4
    taken_for_samples = sum(bool(findings(rng, watch, 40, 50, alike=True, naive=True)) for _ in range(20))
    assert taken_for_samples > 15


@pytest.mark.parametrize("alike", [False, True])
def test_drift_is_found_and_only_where_it_is(alike: bool) -> None:
    watch, rng = Watch(), np.random.default_rng(2)
    for _ in range(10):
        assert findings(rng, watch, 400, 5, alike=alike, shift=2.5) == ["f3"]


def test_a_world_that_stays_as_it_was_is_quiet_though_the_bundle_learned_from_a_sample() -> None:
    """Of what is reviewed anyway the sample has all, of the rest a fiftieth: unweighted it is another world."""
    watch, plan, rng = Watch(), small_plan(), np.random.default_rng(3)
    live = np.round(rng.beta(0.3, 12, 50_000), 6)
    odds = np.where(live > 0.2, 1.0, 0.02)
    drawn = np.flatnonzero(rng.random(len(live)) < odds)
    rows = {entity: Text.of_strings(f"{entity}{i}" for i in drawn) for entity in plan.entities}

    def found(weight: Any) -> list[Any]:
        entry = {
            **entry_of(NUMBER, live[drawn], weight),
            "independent": independent(plan, rows, [SCORE], weight)[SCORE],
        }
        reference = Reference.of({SCORE: entry})
        table = reference.table()
        count(places(reference, []), {}, live, np.arange(len(live)), table)
        features = features_of(reference, table, np.array([5e4]), chance_of_each(watch, reference))
        return drifted(watch, features)

    assert found(1 / odds[drawn]) == []
    assert [f.name for f in found(None)] == [SCORE]


def test_a_share_that_is_suddenly_unknown_is_found() -> None:
    profile = {"x": {"cuts": [0.0], "counts": [500, 480, *[0] * 8, 20]}}
    reference = Reference.of(profile)

    def found(unknown: int, known: int) -> list[Any]:
        table = reference.table({"x": [known // 2, known - known // 2, *[0] * 8, unknown]})
        sizes = np.array([float(unknown + known)])
        return drifted(Watch(), features_of(reference, table, sizes, chance_of_each(Watch(), reference)))

    assert found(20, 980) == []
    [one] = found(300, 700)
    assert (one.what, one.found) == (MISSING, 0.3)
    assert "x is not known in 30.0% of the events, at training in 2.0%" in one.sentence()
    assert found(3, 7) == [], "ten events"
    [gone] = found(1000, 0)
    assert gone.found == 1.0


# ---- decay -----------------------------------------------------------------------------------------------------------

PROMISED = {"ap": 0.7, "precision": 0.6, "recall": 0.5, "validation_frauds": 600}


def at(precision: float, events: int, ap: float = 0.7, frauds: float = 600) -> dict[str, Any]:
    return {"ap": ap, "frauds_seen": frauds, "at": {"review": {"precision": precision, "seen_on": events}}}


@pytest.mark.parametrize(
    ("estimated", "measured", "expected"),
    [
        (at(0.6, 500), at(0.6, 500), []),
        (at(0.5, 500), None, []),  # less, and not yet a quarter less
        (at(0.2, 500), None, [(ESTIMATED, "precision of alerts")]),
        (at(0.2, 8), None, []),  # eight alerts say nothing
        (None, at(0.6, 500, ap=0.3), [(MEASURED, "average precision")]),
        (None, at(0.6, 500, ap=0.3, frauds=10), []),
        (at(0.2, 500), at(0.2, 500, ap=0.3), [
            (ESTIMATED, "precision of alerts"), (MEASURED, "precision of alerts"), (MEASURED, "average precision"),
        ]),
        (None, {"ap": None, "frauds_seen": 0.0, "at": {}}, []),
    ],
)  # fmt: skip
def test_decay_is_what_is_below_the_promise_by_more_than_noise(estimated: Any, measured: Any, expected: Any) -> None:
    found = decayed(Watch(), PROMISED, estimated, measured, 1e-4)
    assert [(f.what, f.name) for f in found] == expected


def test_a_bundle_that_promised_nothing_does_not_decay() -> None:
    assert decayed(Watch(), {}, at(0.01, 1000), at(0.01, 1000, ap=0.01), 1e-4) == []


@pytest.mark.parametrize("seed", range(3))
def test_quality_that_stays_is_hardly_ever_called_decay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chance = chance_of_each(Watch(false_alarms=0.01), Reference.of({}))
    alarms = 0
    for _ in range(300):
        then, now = (rng.binomial(n, 0.4) / n for n in (60, 40))
        promised = {"precision": then, "recall": 0.5, "validation_frauds": int(60 * then / 0.5), "ap": None}
        alarms += bool(decayed(Watch(decay=0.1), promised, None, at(now, 40, ap=0.0), chance))
    assert alarms <= 6


def test_findings_say_what_was_found_and_wanted() -> None:
    from batch.findings import Finding

    assert Finding(INPUTS, "amount", 1.234, 0.2).sentence() == "amount has drifted (PSI 1.23, at most 0.20)"
    assert (
        "estimated precision of alerts is 0.200, promised 0.600"
        in Finding(ESTIMATED, "precision of alerts", 0.2, 0.6).sentence()
    )


# ---- storm control ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20 * HOUR), min_size=1, max_size=60), st.integers(0, 30 * HOUR), st.integers(1, 4))
def test_a_storm_is_held_whatever_comes(steps: list[int], gap_ms: int, per_day: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        storm, now, raised = Storm(Path(folder) / "storm.json"), 0, []
        for i, step in enumerate(steps):
            now += step
            if storm.allows("alert", f"run {i}", now, gap_ms, per_day):
                raised.append(now)
    assert raised[0] == steps[0]
    assert all(b - a >= gap_ms for a, b in itertools.pairwise(raised))
    assert all(sum(a - DAY < b <= a for b in raised) <= per_day for a in raised)


def test_a_task_that_is_tried_again_gets_its_answer_again_and_kinds_are_apart(tmp_path: Path) -> None:
    storm = Storm(tmp_path / "watch" / "storm.json")
    assert storm.allows("alert", "one", 0, DAY, 1)
    assert storm.allows("alert", "one", 5, DAY, 1)
    assert not Storm(tmp_path / "watch" / "storm.json").allows("alert", "two", 5, DAY, 1)
    assert storm.allows("retrain", "two", 5, DAY, 1)


# ---- pipeline.yaml ---------------------------------------------------------------------------------------------------


def load(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return Pipeline.load(path)


def test_the_section_has_defaults_and_names_mistakes_with_their_line(tmp_path: Path) -> None:
    assert load(tmp_path, "span: 28d\n").file.watch == Watch()
    found = load(tmp_path, "watch:\n  psi: 0.3\n  retrain: true\n  alert_gap: 6h\ncard:\n  purpose: To try.\n").file
    assert (found.watch.psi, found.watch.retrain, found.watch.alert_gap_ms) == (0.3, True, 6 * HOUR)
    assert found.card.purpose == "To try."
    for text, message in [
        ("watch:\n  window: soon\n", r"line 2, watch\.window: 'soon' is not a number and a unit"),
        ("watch:\n  physi: 1\n", r"line 2, watch\.physi: .*unknown field.*Did you mean psi"),
        ("watch:\n  source: guess\n", r"line 2, watch\.source: invalid enum value 'guess'"),
        ("watch:\n  decay: 1.5\n", r"line 2, watch\.decay: expected `float` < 1"),
    ]:
        with pytest.raises(DeclarationError, match=message):
            load(tmp_path, text)
