"""Gates one by one: what passes, what is refused, and the numbers that a verdict keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from batch.compare import Beside
from batch.gates import Gate
from batch.gates.changes import Changes
from batch.gates.custom import Custom
from batch.gates.latency import Latency
from batch.gates.leakage import Leakage
from batch.gates.metric import Metric
from batch.gates.not_worse import NotWorse
from batch.gates.sanity import Row, Sanity
from batch.gates.segments import Segments
from batch.gates.size import Size
from batch.judge import Judged, judge
from batch.publish import read_verdict, write_verdict
from batch.resampling import Curve, Groups, Paired, compare
from batch.train import Span, Trained, train
from batch.training_set import TrainingSet
from riskflow.bundle import Bundle
from riskflow.columns import Text
from riskflow.policy import Policy, PolicyFile, Review
from tests.unit.test_judge import pipeline
from tests.unit.training_cases import DAY, START, rows, small_plan

PLAN, DATA = small_plan(), rows()
SPAN = Span.of(DATA, 7 * DAY, 4)


@pytest.fixture(scope="module", autouse=True)
def policy() -> Iterator[None]:
    """The small use case has no policy.yaml; here some scores are reviewed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batch.judge.policy_of", lambda plan: Policy(PolicyFile(Review(alerts_per_day=10))))
        yield


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(PLAN, DATA, SPAN, ["linear"])[0]


@pytest.fixture(scope="module")
def champion() -> Bundle:
    """It has learned from the first 20 days."""
    early = DATA.rows(DATA.at_ms < START + 20 * DAY)
    span = Span.of(early, 7 * DAY, 4)
    found = judge(PLAN, pipeline(), early, span.validation(early), train(PLAN, early, span, ["linear"]))
    assert found.bundle is not None
    return found.bundle


def judged(trained: Trained, *gates: Any, champion: Bundle | None = None, data: TrainingSet = DATA) -> Judged:
    return judge(PLAN, pipeline(*gates), data, SPAN.validation(data), [trained], champion)


def outcome(trained: Trained, gate: Any, **more: Any) -> Gate:
    return next(g for g in judged(trained, gate, **more).verdict.gates if g.name == gate.name)


def worse(trained: Trained, spoiled: float) -> Trained:
    """The same candidate, a share of its outputs exchanged at random."""
    rng = np.random.default_rng(0)
    outputs = trained.outputs.copy()
    rows_ = np.flatnonzero(rng.random(len(outputs)) < spoiled)
    outputs[rows_] = outputs[rng.permutation(rows_)]
    return replace(trained, outputs=outputs)


def test_a_figure_is_held_to_its_bounds(trained: Trained) -> None:
    assert outcome(trained, Metric(metric="ap", least=0.1)).passed
    refused = outcome(trained, Metric(metric="recall", least=0.999))
    assert not refused.passed
    assert refused.sentence().startswith("metric recall: found 0.")
    assert refused.wanted == f"at least 0.999 on {refused.evidence['rows']} validation rows"
    assert not outcome(trained, Metric(metric="ap", most=0.1)).passed


def test_not_worse_by_the_figures_and_by_the_interval(trained: Trained, champion: Bundle) -> None:
    equal = outcome(trained, NotWorse(margin=0.1, confidence=0.9), champion=champion)
    assert equal.passed, equal.sentence()
    low, high = equal.evidence["difference_to_wanted"].values()
    assert 0 < low < high
    strict = outcome(trained, NotWorse(margin=0.0, confidence=0.99), champion=champion)
    assert not strict.passed, "as good is not proven to be at least as good"
    assert "with confidence 0.99 at least 0." in strict.found
    spoiled = outcome(worse(trained, 0.5), NotWorse(margin=0.05), champion=champion)
    assert not spoiled.passed
    assert "0.95 of the champion's" in spoiled.wanted
    alone = outcome(trained, NotWorse())
    assert alone.passed
    assert alone.wanted == "any ap: there is no champion"


def test_who_changes_sides_is_counted_and_named(trained: Trained, champion: Bundle) -> None:
    found = outcome(trained, Changes(most=0.2, examples=3), champion=champion)
    assert found.passed
    moved = outcome(worse(trained, 1.0), Changes(most=0.01, examples=3), champion=champion)
    assert not moved.passed
    assert moved.evidence["share"] > 0.01
    assert sum(moved.evidence["flips"].values()) == round(moved.evidence["share"] * moved.evidence["rows"])
    assert len(moved.evidence["examples"]) == 3
    gaps = [abs(e["candidate"] - e["champion"]) for e in moved.evidence["examples"]]
    assert gaps == sorted(gaps, reverse=True)


def test_a_group_that_pays_for_the_others_is_named(trained: Trained) -> None:
    """Payments through one channel are flagged whatever they are."""
    at = SPAN.part(DATA) == SPAN.last
    channel = np.asarray(DATA.columns["channel"])[at]
    outputs = np.where(channel == 1, np.maximum(trained.outputs, 0.9), trained.outputs)
    unfair = replace(trained, outputs=outputs)
    gate = Segments(by=["channel"], most_times_overall=2.0, fewest=20)
    assert outcome(trained, gate).passed
    refused = outcome(unfair, gate)
    assert not refused.passed
    assert "channel=" in str(refused.found)
    assert "overall" in str(refused.found)
    groups = refused.evidence["groups"]
    assert sum(g["frauds"] for g in groups.values()) == DATA.rows(at).frauds
    assert not outcome(trained, Segments(by=["channel"], least_recall=1.0, fewest_frauds=1)).passed
    few = Segments(by=["channel"], least_recall=1.0, fewest_frauds=10_000)
    assert outcome(trained, few).passed, "a handful of frauds says nothing"


def test_latency_and_size_are_measured(trained: Trained) -> None:
    assert outcome(trained, Latency(most_ms=1000, blocks=3)).passed
    slow = outcome(trained, Latency(most_ms=1e-6, blocks=3))
    assert not slow.passed
    assert slow.evidence["blocks"] == 3
    assert outcome(trained, Size()).passed
    large = outcome(trained, Size(most_mib=1e-4))
    assert "0.00 MiB" not in large.found
    assert not large.passed


def test_rows_that_people_are_sure_of(trained: Trained) -> None:
    small, huge = Row(name="coffee", values={"amount": 3}, most=0.2), Row(name="car", values={"amount": 400})
    gate = Sanity(rows=[small, Row(name="car", values=huge.values, above="coffee", least=0.3)])
    assert outcome(trained, gate).passed
    refused = outcome(trained, Sanity(rows=[replace_row(small, above="car"), huge_with(huge, 1.0)]))
    assert not refused.passed
    assert "coffee 0." in str(refused.found)
    assert refused.evidence["scores"].keys() == {"coffee", "car"}


def replace_row(row: Row, **changed: Any) -> Row:
    return Row(name=row.name, values=row.values, **{"most": row.most, **changed})


def huge_with(row: Row, most: float) -> Row:
    return Row(name=row.name, values=row.values, most=most)


def test_what_is_too_good_is_suspected_and_the_input_named(trained: Trained) -> None:
    innocent = outcome(trained, Leakage())
    assert innocent.passed
    assert re.fullmatch(r"average precision 0\.\d{4}, at most 0\.\d{4} alone", innocent.found)
    told = TrainingSet({**DATA.columns, "noise": DATA.fraud + 0.001}, DATA.fraud)
    refused = outcome(trained, Leakage(), data=told)
    assert not refused.passed
    assert "noise alone AUC 1.0000" in str(refused.found)
    assert not outcome(trained, Leakage(most_ap=0.2)).passed


def of_its_own(case: Any, least: float) -> dict[str, Any]:
    """What a use case would have in its gates.py."""
    mean = float(case.score.mean())
    return {
        "passed": mean >= least,
        "found": mean,
        "wanted": f"at least {least}",
        "evidence": {"rows": len(case.score)},
    }


def broken(case: Any) -> Any:
    return {}[1]


def test_a_gate_of_ones_own(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "team", SimpleNamespace(mine=of_its_own, broken=broken, silly=lambda case: 3))
    found = outcome(trained, Custom(call="team.mine", with_={"least": 0.0}))
    assert found.passed
    assert found.evidence["rows"] == len(SPAN.validation(DATA))
    refused = outcome(trained, Custom(call="team.mine", with_={"least": 0.9}))
    assert "mine: found 0." in refused.sentence()
    assert outcome(trained, Custom(call="team.broken")).found == "KeyError: 1"
    assert not outcome(trained, Custom(call="team.silly")).passed


def test_the_evidence_survives_the_way_to_verdict_json(trained: Trained, champion: Bundle, tmp_path: Any) -> None:
    gates = [NotWorse(), Changes(), Segments(by=["channel"], least_recall=0.1), Leakage(), Latency(blocks=2)]
    verdict = judged(trained, *gates, champion=champion).verdict
    write_verdict(verdict, tmp_path)
    again = read_verdict(tmp_path)
    assert [g.evidence for g in again.gates] == [g.evidence for g in verdict.gates]
    assert again == verdict


def test_a_bundle_that_could_not_be_made_fails_the_gates_that_need_it(trained: Trained) -> None:
    broken_model = replace(trained, models={**trained.models, "verdict": b"no model"})
    names = ("latency", "size", "sanity", "golden_rows")
    found = judged(broken_model, Latency(), Size(), Sanity(rows=[Row(name="a", values={}, most=1.0)]))
    assert found.bundle is None
    assert [g.name for g in found.verdict.failed] == [*names]


def test_shares_are_those_of_the_events_that_rows_stand_for() -> None:
    rows = TrainingSet(
        {"_id": Text.of_strings("abcd")}, np.array([1.0, 1.0, 0.0, 0.0]), weight=np.array([1.0, 9.0, 1.0, 3.0])
    )
    score, other = np.array([0.9, 0.1, 0.9, 0.1]), np.array([0.9, 0.1, 0.1, 0.1])
    actions = np.array([1, 0, 1, 0]), np.array([1, 0, 0, 0])
    case: Any = SimpleNamespace(
        validation=rows, weights=rows.weight, flagged=actions[0] > 0, groups=lambda _: {"all": np.arange(4)},
        actions=lambda _: actions, beside=Beside("", 1, rows, score, other),
    )  # fmt: skip
    found = Segments(by=["channel"], least_recall=0.5, fewest_frauds=1).judge(case)
    assert not found.passed
    [figures] = found.evidence["groups"].values()
    assert (
        figures == {"genuine": 2, "frauds": 2, "false_positive_rate": 0.25, "recall": 0.1} == found.evidence["overall"]
    )
    moved = Changes().judge(case).evidence
    assert (moved["share"], moved["mean_difference"]) == pytest.approx((1 / 14, 0.8 / 14))


# ---- resampling ------------------------------------------------------------------------------------------------------


@examples(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), min_size=2))
def test_weighted_figures_are_those_of_repeated_rows(cells: list[tuple[bool, int, int, int]]) -> None:
    """A row is there as often as its own weight and that of its entity say."""
    fraud, score, weight, entity = (np.array(column) for column in zip(*cells, strict=True))
    drawn = np.array([[0, 1, 2, 1, 3]])
    times = weight * drawn[0, entity]
    y, s = np.repeat(fraud, times), np.repeat(score, times)
    if len(np.unique(y)) < 2:
        return
    curve = Curve(fraud.astype(float), score / 5, entity, weight.astype(float))
    assert curve.ap(drawn.astype(float))[0] == pytest.approx(average_precision_score(y, s))
    assert curve.auc(drawn.astype(float))[0] == pytest.approx(roc_auc_score(y, s))


def compared(metric: str, fraud: Any, score: Any, other: Any, entity: Any, draws: int = 500, seed: int = 1) -> Paired:
    groups = Groups.of(entity, fraud)
    its, mine = (getattr(Curve(fraud, s, groups.number), metric) for s in (other, score))
    [found] = compare(its, [mine], groups, draws, seed)
    return found


@pytest.mark.parametrize(("customers", "frauds"), [(600, 0.15), (600, 0.02)])
def test_the_interval_covers_what_is_true_as_often_as_it_says(customers: int, frauds: float) -> None:
    """Two scorers that are equally good: the lower end at 90 % lies above zero in at most a tenth of the worlds, be it
    with a dozen frauds."""
    above, worlds = 0, 200
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        fraud = (rng.random(customers) < frauds).astype(float)
        a, b = (1.5 * fraud + rng.normal(0, 1.0, customers) for _ in range(2))
        found = compared("ap", fraud, a, b, np.arange(customers), draws=200, seed=seed)
        above += found.bounds(0.1)[0] > 0
    assert 0.02 * worlds <= above <= 0.1 * worlds


def test_with_few_frauds_the_bound_is_that_of_student() -> None:
    rng = np.random.default_rng(0)
    fraud = np.append(np.ones(5), np.zeros(400))
    found = compared("ap", fraud, fraud + rng.normal(size=405), fraud + rng.normal(size=405), np.arange(405))
    drawn = found.mine_drawn - found.its_drawn
    low, high = found.bounds(0.05)
    assert low < np.quantile(drawn, 0.05)
    assert high > np.quantile(drawn, 0.95)


def test_draws_are_the_same_each_time_and_keep_groups_together() -> None:
    rng = np.random.default_rng(1)
    fraud, score, other = (rng.random(400) < 0.2).astype(float), rng.random(400), rng.random(400)
    first, again = (compared("auc", fraud, score, other, np.arange(400) // 4, draws=150) for _ in range(2))
    assert first.mine_drawn.tobytes() == again.mine_drawn.tobytes()
    assert first.draws == 150
    nine = [np.tile(column, 9) for column in (fraud, score, other)]
    copies = compared("ap", *nine, np.tile(np.arange(400), 9))
    single = compared("ap", fraud, score, other, np.arange(400))
    ratio = copies.mine_drawn.std() / single.mine_drawn.std()
    assert ratio == pytest.approx(1, abs=0.15), "nine copies of a row are no nine rows"
