"""Declined events that are let through: who, what is said, and that an estimate is wrong without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batch import lake, metrics
from batch.archived import span_set, with_features
from batch.let_through import Decisions, read_decisions, stands_for
from batch.retrain import replay_frame
from batch.training_set import AS_LABELLED, TrainingSet
from batch.truth import terms_of
from batch.weights import fit
from riskflow.columns import Text, take
from riskflow.errors import DeclarationError, RiskflowError
from riskflow.policy import (
    APPROVE,
    DECLINE,
    LET_THROUGH,
    REVIEW,
    Decider,
    Decline,
    Policy,
    PolicyFile,
    Review,
    Rule,
    uniform,
)  # fmt: skip
from riskflow.scoring import Scorer
from tests.unit.bundle_cases import KEY
from tests.unit.lake_cases import Streamed, ids, run_in, streamed
from tests.unit.training_cases import small_plan

# ---- deciding --------------------------------------------------------------------------------------------------------


def decider(share: float, rules: tuple[Rule, ...] = ()) -> Decider:
    file = PolicyFile(Review(threshold=0.3), Decline(threshold=0.8), rules=list(rules), let_through=share)
    numbers = Policy(file).resolve(np.array([0.1, 0.9]), np.array([0, 1]), np.array([0, 1]))
    return Decider(numbers, small_plan())


def decided(decider: Decider, score: Any, prefix: str = "e", **more: Any) -> Any:
    names = Text.of_strings(f"{prefix}{i}" for i in range(len(score)))
    return decider.decide(np.asarray(score, np.float64), {"_id": names, **more})


@examples(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.5), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_only_what_the_score_declines_is_let_through(share: float, scores: list[float]) -> None:
    plain, found = decided(decider(0.0), scores), decided(decider(share), scores)
    let = found.hits[0]
    assert (plain.action[let] == DECLINE).all()
    assert (found.action[let] == REVIEW).all()
    np.testing.assert_array_equal(found.action[~let], plain.action[~let])
    np.testing.assert_array_equal(found.band, plain.band)
    alone = [decided(decider(share), [s], prefix=f"e{i}x").action[0] for i, s in enumerate(scores)]
    again = [decided(decider(share), [s], prefix=f"e{i}x").action[0] for i, s in enumerate(scores)]
    assert alone == again


def test_the_share_is_what_was_asked_for_and_grows_without_losing_anybody() -> None:
    score = np.full(20_000, 0.9)
    small, large = (decided(decider(share), score).hits[0] for share in (0.05, 0.2))
    assert small.mean() == pytest.approx(0.05, abs=0.006)
    assert large.mean() == pytest.approx(0.2, abs=0.01)
    assert not (small & ~large).any()
    drawn = uniform(Text.of_strings(f"e{i}" for i in range(20_000)), 1)
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 1_800


def test_what_a_rule_declines_is_never_let_through() -> None:
    rule = Rule("stop", "amount > 10", "decline", "too much")
    found = decided(decider(0.5, (rule,)), np.full(200, 0.9), amount=np.repeat([5.0, 50.0], 100))
    assert found.hits.shape == (2, 200)
    assert 20 < found.hits[0, :100].sum() < 80
    assert not found.hits[0, 100:].any()
    assert (found.action[100:] == DECLINE).all()


def test_it_needs_something_that_is_declined(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("review: {threshold: 0.5}\nlet_through: 0.1\n")
    with pytest.raises(
        DeclarationError, match=r"policy\.yaml, line 2, let_through: lets through what no score declines"
    ):
        Policy.load(path)
    assert "let_through" not in Policy(PolicyFile(Review(threshold=0.5))).start(), "off, it leaves no trace"


def test_a_bundle_whose_policy_lets_through_keeps_its_golden_rows(archived: Streamed) -> None:
    """In blocks of all sizes the same ids are let through; the reason comes first, and tells the share."""
    from batch.bundling import build_bundle
    from riskflow.bundle import check_golden

    run, old = archived.run(), archived.bundles[2]
    numbers = {**old.policy, "decline": 0.05, "let_through": 0.5}
    bundle = build_bundle(
        run.plan, models={m["name"]: old.files[m["file"]] for m in old.models}, policy_numbers=numbers,
        golden_columns=archived.events, calibration=old.calibration, reference=old.reference,
    )  # fmt: skip
    scorer = Scorer(run.plan, bundle)
    check_golden(scorer)
    assert "_id" in scorer.columns
    scored = scorer.score(archived.events)
    reasons = dict(zip(scored.flagged.tolist(), scored.reasons(), strict=True))
    let = np.flatnonzero(scored.hits[0])
    assert len(let) > 10
    assert {reasons[row][0] for row in let.tolist()} == {f"{LET_THROUGH}0.5"}


# ---- learning --------------------------------------------------------------------------------------------------------


def sorted_hashes(names: list[str]) -> Any:
    return np.sort(Text.of_strings(names).hashes())


def test_who_stands_for_whom() -> None:
    """Bundle 7 lets some through, so what it declined itself says nothing; of what bundle 8 declined labels speak."""
    names = ["let", "by 7", "by 7, fraud", "by 8", "by 8, fraud", "approved", "approved, fraud"]
    events = Text.of_strings(names).hashes()
    said = np.array([np.nan, np.nan, 1, np.nan, 1, np.nan, 1])
    by = dict(zip(events[1:5].tolist(), [7, 7, 8, 8], strict=True))
    decisions = Decisions(
        declined=np.array(sorted(by)), by=np.array([by[h] for h in sorted(by)]), let=events[:1],
        share=np.array([0.1]), lets_through=np.array([7]),
    )  # fmt: skip
    assert stands_for(events, said, decisions).tolist() == [10, 0, 0, 0, 1, 1, 1]


def world(n: int, seed: int) -> tuple[Any, Any]:
    """Two signs of fraud. The scorer that is live knows the first one only."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    odds = np.exp(-3.5 + 2.0 * x[:, 0] + 1.0 * x[:, 1])
    return x, (rng.random(n) < odds / (1 + odds)).astype(float)


def test_the_estimate_is_wrong_without_them_and_right_with_them() -> None:
    """Of what is declined nobody learns the truth: taken for genuine, the fraud rate and the model are both far off."""
    n, share = 60_000, 0.1
    x, fraud = world(n, seed=1)
    live = x[:, 0] > 1.0  # what the live scorer declines
    let = live & (uniform(Text.of_strings(map(str, range(n))), 3) < share)
    known = ~live | let
    as_genuine = np.where(known, fraud, 0.0)
    weight = np.where(let, 1 / share, 1.0)[known]
    assert as_genuine.mean() < 0.6 * fraud.mean()
    assert np.average(fraud[known], weights=weight) == pytest.approx(fraud.mean(), rel=0.06)

    right = LogisticRegression().fit(x, fraud).coef_[0]
    biased = LogisticRegression().fit(x, as_genuine).coef_[0]
    corrected = fit(make_pipeline(StandardScaler(), LogisticRegression()), x[known], fraud[known], weight)
    assert biased[0] < 0.5 * right[0], "the sign that is declined on looks harmless"
    np.testing.assert_allclose(corrected[-1].coef_[0] / corrected[0].scale_, right, rtol=0.1)

    test_x, truth = world(n, seed=2)
    score = test_x @ right
    held = np.flatnonzero(~(test_x[:, 0] > 1.0) | (uniform(Text.of_strings(map(str, range(n))), 3) < share))
    each = np.where(test_x[held, 0] > 1.0, 1 / share, 1.0)
    whole = metrics.ranking(score, truth)["ap"]
    assert metrics.ranking(score[held], truth[held], each)["ap"] == pytest.approx(whole, rel=0.06)
    assert metrics.ranking(score[held], truth[held])["ap"] != pytest.approx(whole, rel=0.2), "without weights it is not"


def test_an_estimator_that_takes_no_weights_is_named() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    with pytest.raises(RiskflowError, match="KNeighborsClassifier takes no sample_weight"):
        fit(KNeighborsClassifier(), np.zeros((4, 1)), np.array([0, 1, 0, 1]), np.ones(4))


# ---- from the archive ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    """The second bundle lets a fifth of what it declines through; rows and scores say so."""
    import dataclasses

    from riskflow.bundle import sign

    home = tmp_path_factory.mktemp("home")
    made = streamed(home)
    run = run_in(home)
    about = made.bundles[2].manifest
    policy = {**about["policy"], "decline": 0.2, "let_through": 0.2}
    bundle = sign(dataclasses.replace(made.bundles[2], manifest={**about, "policy": policy}), KEY)
    mine = np.flatnonzero((np.asarray(made.rows["_bundle"]) == 2) & (np.asarray(made.rows["_kind"]) == 0))
    events = take(made.rows, mine)
    scored = Scorer(run.plan, bundle).score(events)
    action = np.array(made.rows["_action"])
    action[mine] = scored.action
    rewrite(run, action)
    write_scores(run, events, scored)
    return dataclasses.replace(made, rows={**made.rows, "_action": action})


def rewrite(run: Any, action: Any) -> None:
    (path,) = (run.conf.lake_folder / run.names.rows).glob("date=*/*.parquet")
    pl.read_parquet(path).with_columns(_action=pl.Series(action)).write_parquet(path)


def write_scores(run: Any, events: Any, scored: Any) -> None:
    reasons = dict(zip(scored.flagged.tolist(), scored.reasons(), strict=True))
    n = len(scored.score)
    table = pl.DataFrame({
        lake.OFFSET: np.arange(n), lake.PARTITION: 0, lake.EPOCH: 1, "event_id": ids(events), "bundle": 2,
        "reasons": [json.dumps(reasons.get(i, [])) for i in range(n)], "occurred_at": events["at_ms"],
    })  # fmt: skip
    path = run.conf.lake_folder / run.names.scores / "date=2026-02-01" / lake.part_name(0, 0, n - 1)
    path.parent.mkdir(parents=True)
    table.write_parquet(path)


def weighted_run(archived: Streamed) -> Any:
    import dataclasses

    return dataclasses.replace(archived.run(), name="weighted")


def test_the_archived_score_says_who_was_let_through_and_with_which_odds(archived: Streamed) -> None:
    found = read_decisions(weighted_run(archived))
    assert len(found.let) > 5
    assert set(found.share.tolist()) == {0.2}
    assert found.lets_through.tolist() == [2]
    texts = pl.concat([lake.read_topic(archived.run().conf.lake_folder, archived.run().names.scores)])["reasons"]
    assert sum(f'"{LET_THROUGH}0.2"' in text for text in texts) == len(found.let)


def test_of_scores_that_were_sent_twice_those_of_the_higher_epoch_count(archived: Streamed) -> None:
    run = archived.run()
    first = read_decisions(run)
    (path,) = (run.conf.lake_folder / run.names.scores).glob("date=*/*.parquet")
    table = pl.read_parquet(path)
    n = len(table)
    again = table.with_columns(pl.col(lake.OFFSET) + n, reasons=pl.lit("[]"), **{lake.EPOCH: pl.lit(2)})
    later = path.with_name(lake.part_name(0, n, 2 * n - 1))
    again.write_parquet(later)
    try:
        assert len(read_decisions(run).let) == 0 < len(first.let)
    finally:
        later.unlink()


def test_training_weighs_them_and_leaves_the_declined_ones_out(archived: Streamed) -> None:
    import dataclasses

    run = weighted_run(archived)
    replay_frame(run)
    data = TrainingSet.read(run.folder / "frame.parquet")
    columns = with_features(run)
    plain = span_set(run, columns, dataclasses.replace(terms_of(run, columns), declined=AS_LABELLED))
    assert plain.weight is None
    assert data.weight is not None
    assert set(data.weight.tolist()) == {1.0, 5.0}
    action = dict(zip(ids(archived.rows), np.asarray(archived.rows["_action"]).tolist(), strict=True))
    left_out = set(ids(plain.columns)) - set(ids(data.columns))
    assert left_out
    assert {action[name] for name in left_out} == {DECLINE}
    assert all(action[n] == REVIEW for n, w in zip(ids(data.columns), data.weight.tolist(), strict=True) if w == 5.0)
    assert {APPROVE, REVIEW} <= {action[name] for name in ids(data.columns)}


def test_such_a_set_is_made_again_from_its_manifest(archived: Streamed) -> None:
    from batch import dataset

    run = weighted_run(archived)
    replay_frame(run)
    manifest = dataset.read(run.folder)
    assert run.names.scores in {r["topic"] for r in manifest["lake"]}
    assert (
        dataset.rebuild(archived.run(), manifest).table().equals(TrainingSet.read(run.folder / "frame.parquet").table())
    )
