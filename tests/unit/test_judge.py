"""Metrics against naive ones; gates that refuse; what is published, and the refusal that names gate and number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score

from batch import metrics
from batch.gates.parity import OnnxParity
from batch.gates.segments import Segments
from batch.judge import Judged, judge, of_passed
from batch.pipeline import Pipeline, PipelineFile
from batch.pipeline_checks import Range
from batch.profile import psi_of
from batch.publish import GatesFailed, champion_bundle, publish, read_verdict, write_verdict
from batch.train import Span, Trained, train
from batch.training_set import TrainingSet
from riskflow.bundle import CARD, Bundle
from riskflow.keys import public_keys_of
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from tests.unit.training_cases import DAY, START, linear, rows, small_plan

# ---- metrics ---------------------------------------------------------------------------------------------------------


def naive_card_precision(score: Any, fraud: Any, card: Any, at_ms: Any, k: int) -> float:
    found: set[int] = set()
    shares = []
    for day in sorted({int(at) // DAY for at in at_ms}):
        best: dict[int, float] = {}
        bad = set()
        for s, f, c, at in zip(score, fraud, card, at_ms, strict=True):
            if int(at) // DAY == day and c not in found:
                best[c] = max(best.get(c, -1.0), s)
                bad |= {c} if f else set()
        ranked = sorted(best, key=lambda c: -best[c])[:k]
        hits = [c for c in ranked if c in bad]
        found |= set(hits)
        shares.append(len(hits) / k)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(5))
def test_card_precision_equals_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 600
    score, fraud = rng.random(n), (rng.random(n) < 0.2).astype(float)
    card, at_ms = rng.integers(0, 60, n), rng.integers(0, 5 * DAY, n)
    assert metrics.card_precision(score, fraud, card, at_ms, 10) == pytest.approx(
        naive_card_precision(score, fraud, card, at_ms, 10)
    )


def test_a_card_that_was_found_is_not_found_again() -> None:
    score, fraud = np.array([0.9, 0.9, 0.5]), np.ones(3)
    card, at_ms = np.array([1, 1, 2]), np.array([0, DAY, DAY])
    assert metrics.card_precision(score, fraud, card, at_ms, 1) == 1.0
    assert metrics.card_precision(score, fraud, np.array([1, 1, 1]), at_ms, 1) == 0.5


def test_figures_at_a_threshold() -> None:
    score, fraud = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1.0, 0, 1, 1])
    found = metrics.at_threshold(score, fraud, np.array([0, 0, 0, 2 * DAY]), 0.7)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"] == 0.5
    assert found["alerts_per_day"] == 1.5
    nothing = metrics.at_threshold(score, fraud, np.zeros(4, np.int64), None)
    assert (nothing["precision"], nothing["recall"], nothing["alerts_per_day"]) == (None, 0.0, 0.0)


def test_lift_says_how_many_times_the_usual_rate() -> None:
    score, fraud = np.linspace(1, 0, 1000), np.zeros(1000)
    fraud[[0, 1, 2, 3, 4, 500, 600, 700, 800, 900]] = 1
    assert metrics.lift(score, fraud) == pytest.approx(0.5 / 0.01)


def test_what_a_sample_says_by_weight_is_what_all_rows_say() -> None:
    """Nine in ten rows of low score are left out, and the tenth weighs ten."""
    rng = np.random.default_rng(0)
    n = 100_000
    score = rng.beta(0.5, 5, n)
    fraud, at_ms, card = (rng.random(n) < score).astype(float), rng.integers(0, 3 * DAY, n), rng.integers(0, n, n)
    odds = np.where(score > 0.4, 1.0, 0.1)
    drawn = rng.random(n) < odds
    mine, weight = (score[drawn], fraud[drawn]), 1 / odds[drawn]
    lift = metrics.lift(score, fraud, 0.02)
    assert metrics.lift(*mine, 0.02, weight) == pytest.approx(lift, rel=0.03)
    assert metrics.lift(*mine, 0.02) != pytest.approx(lift, rel=0.2)
    among = (card[drawn], at_ms[drawn], 5000)
    whole = metrics.card_precision(score, fraud, card, at_ms, 5000)
    assert metrics.card_precision(*mine, *among, weight) == pytest.approx(whole, rel=0.05)
    assert metrics.card_precision(*mine, *among) != pytest.approx(whole, rel=0.15)
    other = np.where(score > 0.4, score, 0.0)
    moved, all_moved = (
        metrics.difference(mine[0], other[drawn], 0.1, 0.1, weight), metrics.difference(score, other, 0.1, 0.1)
    )  # fmt: skip
    for name in ("mean", "change_sides"):
        assert moved[name] == pytest.approx(all_moved[name], rel=0.05)


def test_a_bundle_from_a_sample_holds_the_figures_of_all() -> None:
    """Profile, usual values, curves and segments of the card, gates: of the events that the sampled rows stand for."""
    plan, data = small_plan(), rows(20_000)
    odds = np.where(np.asarray(data.columns["amount"]) > 100, 1.0, 0.2)
    sample = data.standing_for((np.random.default_rng(1).random(len(data)) < odds) / odds)
    whole, found = judged(plan, data), judged(plan, sample, None, None, Segments(by=["channel"], least_recall=0.0))
    assert whole.bundle is not None
    assert found.bundle is not None
    usual, wanted = found.bundle.reference["amount"], whole.bundle.reference["amount"]
    assert usual == pytest.approx(wanted, rel=0.05)
    assert np.median(sample.columns["amount"]) > 1.2 * wanted
    counts = np.array(found.bundle.profile["amount"]["counts"])
    assert counts.sum() == pytest.approx(len(data), rel=0.03)
    assert psi_of(found.bundle.profile["amount"], data.columns["amount"]) < 0.05
    card, of_all = (json.loads(one.bundle.files[CARD]) for one in (found, whole))
    for group in ("online", "chip"):
        pair = [c["segments"]["channel"][group] for c in (card, of_all)]
        assert pair[0]["events"] == pytest.approx(pair[1]["events"], rel=0.1)
        assert pair[0]["false_positive_rate"] < 0.1
    [gate] = [g for g in found.verdict.gates if g.name == "segments channel"]
    online = card["segments"]["channel"]["online"]
    assert gate.evidence["groups"]["channel=online"]["recall"] == pytest.approx(online["recall"], abs=0.2)
    genuine = [sum(c["curves"]["scores"]["genuine"]) for c in (card, of_all)]
    assert genuine[0] == pytest.approx(genuine[1], rel=0.05)
    assert found.bundle.metrics["validation_frauds_seen"] < found.bundle.metrics["validation_frauds"]


def test_a_bundle_says_how_good_it_is_on_what_it_does_not_decline() -> None:
    data, score = rows(5_000), np.random.default_rng(0).random(5_000)
    weight = np.random.default_rng(1).integers(1, 4, 5_000).astype(float)
    found = of_passed(replace(data, weight=weight), score, {"review": 0.2, "decline": 0.7})
    low = score < 0.7
    naive = average_precision_score(data.fraud[low], score[low], sample_weight=weight[low])
    assert found["ap"] == pytest.approx(naive)
    flagged = low & (score >= 0.2)
    assert found["precision"] == pytest.approx(np.average(data.fraud[flagged], weights=weight[flagged]))
    assert found["validation_frauds"] == data.fraud[low].sum() > found["validation_frauds_seen"]
    assert of_passed(data, score, {"review": 0.2, "decline": None})["validation_frauds"] == data.fraud.sum()
    assert of_passed(data, score, {"review": 0.2, "decline": 0.0}) == {}
    assert judged(small_plan(), data).verdict.metrics["passed"]["validation_frauds"] > 0


def test_rows_that_change_sides_are_counted_both_ways() -> None:
    found = metrics.difference(np.array([0.9, 0.1, 0.5]), np.array([0.1, 0.9, 0.5]), 0.5, 0.4)
    assert found["change_sides"] == pytest.approx(2 / 3)
    assert (found["newly_flagged"], found["no_longer_flagged"]) == (1, 1)
    assert found["largest"] == pytest.approx(0.8)


# ---- gates -----------------------------------------------------------------------------------------------------------


def pipeline(*gates: Any, **checks: Any) -> Pipeline:
    """Those gates instead of the usual ones, those checks beside the usual ones."""
    file = PipelineFile()
    checked = msgspec.structs.replace(file.checks, **checks)
    return Pipeline(msgspec.structs.replace(file, gates=list(gates) or file.gates, checks=checked))


def judged(
    plan: Plan, data: TrainingSet, champion: Bundle | None = None, trained: Trained | None = None, *gates: Any,
    **checks: Any,
) -> Judged:  # fmt: skip
    span = Span.of(data, 7 * DAY, 4)
    raced = [trained] if trained else train(plan, data, span, ["linear"])
    return judge(plan, pipeline(*gates, **checks), data, span.validation(data), raced, champion)


def failed(found: Judged) -> list[str]:
    return [gate.name for gate in found.verdict.failed]


def test_a_sound_candidate_passes_and_its_bundle_scores() -> None:
    plan, data = small_plan(), rows()
    found = judged(plan, data)
    assert found.verdict.passed, found.verdict.refusal()
    assert found.bundle is not None
    score = Scorer(plan, found.bundle).score(data.columns).score
    assert metrics.ranking(score, data.fraud)["ap"] > 0.4  # type: ignore[operator]
    assert found.bundle.data["rows"] == len(data)
    assert {"auc", "ap", "cp_at_k", "f1", "lift_top_1", "alerts_per_day"} <= found.bundle.metrics.keys()


@pytest.mark.parametrize(
    ("gates", "checks", "name", "number"),
    [
        ([], {"rows": Range(5000)}, "rows", "4000"),
        ([], {"frauds": Range(5000)}, "frauds", "at least 5000"),
        ([], {"label_rate": Range(0.0002, 0.05)}, "label_rate", "0.0002 to 0.05"),
        ([OnnxParity(most=1e-12)], {}, "onnx_parity", "at most 1e-12"),
    ],
)
def test_a_gate_refuses_and_says_what_was_found(
    gates: list[Any], checks: dict[str, Range], name: str, number: str
) -> None:
    found = judged(small_plan(), rows(), None, None, *gates, **checks)
    assert name in failed(found)
    assert number in found.verdict.refusal()
    assert "is not published" in found.verdict.refusal()


def test_a_constant_score_is_refused() -> None:
    plan = small_plan(linear=lambda: DummyClassifier())
    assert "score_not_constant" in failed(judge_of_constant(plan))


def judge_of_constant(plan: Plan) -> Judged:
    data = rows()
    span = Span.of(data, 7 * DAY, 4)
    sound = train(small_plan(), data, span, ["linear"])[0]
    return judged(plan, data, trained=replace(sound, outputs=np.full(len(sound.outputs), 0.1)))


def test_an_input_that_is_hardly_ever_known_is_refused() -> None:
    data = rows()
    noise = np.where(np.arange(len(data)) % 100 == 0, 0.5, np.nan)
    trained = train(small_plan(), data, Span.of(data, 7 * DAY, 4), ["linear"])[0]
    found = judged(
        small_plan(),
        TrainingSet({**data.columns, "noise": noise}, data.fraud),
        trained=trained,
        missing=Range(most=0.9),
    )
    assert "missing" in failed(found)
    assert "noise 0.9900" in found.verdict.refusal()


def early(data: TrainingSet) -> TrainingSet:
    """What there was before the newest part: what an older champion learned from."""
    return data.rows(data.at_ms < START + 20 * DAY)


def without_amounts(data: TrainingSet) -> TrainingSet:
    """Amounts that tell nothing."""
    return TrainingSet({**data.columns, "amount": data.columns["amount"][::-1].copy()}, data.fraud)  # type: ignore[index]


def test_a_candidate_below_the_champion_is_refused_and_the_difference_is_told() -> None:
    plan, data = small_plan(), rows()
    champion = judged(plan, early(data)).bundle
    assert champion is not None
    span = Span.of(data, 7 * DAY, 4)
    worse = train(plan, without_amounts(data), span, ["linear"])
    found = judge(plan, pipeline(), data, span.validation(data), worse, champion)
    assert failed(found) == ["not_worse"]
    assert "0.95 of the champion's" in found.verdict.refusal()
    against = found.verdict.against
    assert against.basis == "rows that neither had learned from"
    assert against.difference["largest"] > 0
    assert {"alerts_per_day", "ap"} <= against.champion.keys() & against.candidate.keys()


def test_a_champion_that_knows_the_rows_by_heart_is_no_better_for_it() -> None:
    """Trained again at once on the same rows, a forest would lose against itself if only it had to forget them."""
    plan = small_plan(linear=lambda: RandomForestClassifier(20, random_state=0))
    data = rows(2500)
    champion = judged(plan, data).bundle
    found = judged(plan, data, champion)
    assert found.verdict.passed, found.verdict.refusal()
    against = found.verdict.against
    assert "both bundles had learned from" in against.basis
    assert against.champion["ap"] > found.verdict.metrics["ap"] / 0.95, "by heart"
    assert against.difference["largest"] == 0


def test_a_champion_with_features_that_have_changed_is_not_compared() -> None:
    plan, data = small_plan(), rows()
    champion = judged(plan, data).bundle
    assert champion is not None
    other = replace(champion, manifest={**champion.manifest, "needed": {"amount": "another"}})
    found = judged(plan, data, champion=other)
    assert found.verdict.passed
    against = next(g for g in found.verdict.gates if g.name == "not_worse")
    assert "needs 'amount' as it no longer is" in against.wanted


# ---- publishing ------------------------------------------------------------------------------------------------------


def registry() -> Registry:
    return Registry(fakeredis.FakeRedis(), Names("tried"))


def test_what_passed_is_published_and_becomes_the_champion() -> None:
    plan, data, key, where = small_plan(), rows(), Ed25519PrivateKey.generate(), registry()
    published = publish(judged(plan, data), where, key, who="a test", why="to see")
    assert (published.version, published.alias) == (1, "champion")
    champion = champion_bundle(where, public_keys_of(key))
    assert champion is not None
    assert champion.content_hash == published.content_hash
    assert where.history()[-1].why == "to see"


def test_what_failed_is_not_published_and_the_refusal_is_written(tmp_path: Path) -> None:
    plan, data, where = small_plan(), rows(), registry()
    found = judged(plan, data, label_rate=Range(0.0002, 0.05))
    with pytest.raises(GatesFailed, match=r"label_rate: found 0\.1\d+, wanted 0\.0002 to 0\.05"):
        publish(found, where, Ed25519PrivateKey.generate(), who="a test", why="")
    assert where.versions() == {}
    assert champion_bundle(where, {}) is None
    write_verdict(found.verdict, tmp_path)
    assert "label_rate" in (tmp_path / "refusal.txt").read_text()
    assert read_verdict(tmp_path) == found.verdict
    write_verdict(judged(plan, data).verdict, tmp_path)
    assert not (tmp_path / "refusal.txt").exists()


def test_linear_models_of_both_layers_are_in_the_bundle() -> None:
    found = judged(small_plan(lower=linear), rows())
    assert found.bundle is not None
    assert [m["name"] for m in found.bundle.models] == ["hint", "verdict"]
