"""Drift: bins, counts that merge, the index against a naive one, the sample, and what a worker makes of it."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from batch.profile import cuts_of, entry_of, independent, profile_of, psi_of
from riskflow.columns import Columns, Text, take
from riskflow.declare import CATEGORY, NUMBER
from riskflow.drift import (
    BINS,
    FEATURES_AT_ONCE,
    MISSING,
    SCORE,
    Places,
    Reference,
    Snapshot,
    count,
    merge,
    missing_share,
    places,
    sampled,
)
from riskflow.scoring import Scored, Scorer
from stream.drift import BUNDLES, HOUR_MS, HOURS, TOLD, Counted, Drift
from stream.swap import Live
from tests.unit import bundle_cases as cases
from tests.unit.training_cases import small_plan

VALUES = st.one_of(st.sampled_from([0.0, 1.0, 2.0, -5.0, math.nan]), st.floats(-1e6, 1e6, width=32), st.just(math.inf))
COLUMNS = st.lists(VALUES, min_size=1, max_size=80)


def reference_of(*columns: list[float]) -> Reference:
    values = {f"x{i}": np.array(c, np.float64) for i, c in enumerate(columns)}
    profile = {name: entry_of(NUMBER, column) for name, column in values.items()}
    return Reference.of(msgspec.json.decode(msgspec.json.encode(profile)))


def counted(reference: Reference, matrix: Any, rows: Any = None) -> Any:
    matrix = np.clip(np.asarray(matrix, np.float32), -1e18, 1e18)
    table = reference.table()
    rows = np.arange(len(matrix)) if rows is None else np.asarray(rows, np.int64)
    count(places(reference, [("m", reference.names)]), {"m": matrix}, matrix[:, 0].astype(float), rows, table)
    return table


# ---- bins and the index ----------------------------------------------------------------------------------------------


def naive_bins(cuts: list[float], values: list[float]) -> Counter[int]:
    out: Counter[int] = Counter()
    for value in values:
        clipped = float(np.float32(min(max(value, -1e18), 1e18))) if value == value else value
        out[MISSING if clipped != clipped else sum(clipped > cut for cut in cuts)] += 1
    return out


def naive_psi(then: Counter[int], now: Counter[int], bins: int) -> float:
    total = 0.0
    for b in range(bins):
        a = (now[b] + 0.5) / (sum(now[i] + 0.5 for i in range(bins)))
        e = (then[b] + 0.5) / (sum(then[i] + 0.5 for i in range(bins)))
        total += (a - e) * math.log(a / e)
    return total


@settings(max_examples=200, deadline=None)
@given(COLUMNS, COLUMNS)
def test_counts_and_index_are_those_of_a_naive_one(then: list[float], now: list[float]) -> None:
    reference = reference_of(then)
    cuts = [float(c) for c in reference.cuts[0] if np.isfinite(c)]
    before, after = naive_bins(cuts, then), naive_bins(cuts, now)
    table = counted(reference, np.array(now)[:, None])
    assert dict(enumerate(reference.counts[0].tolist())) == {b: before[b] for b in range(BINS + 1)}
    assert dict(enumerate(table[0].tolist())) == {b: after[b] for b in range(BINS + 1)}
    psi = reference.psi(table)[0]
    if before[MISSING] == len(then) or after[MISSING] == len(now):
        assert np.isnan(psi)
    else:
        assert psi == pytest.approx(naive_psi(before, after, len(cuts) + 1), abs=1e-12)
    assert missing_share(table)[0] == after[MISSING] / len(now)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(1, 5)), min_size=1, max_size=40), COLUMNS)
def test_a_row_that_stands_for_five_is_seen_as_five(rows: list[tuple[float, int]], now: list[float]) -> None:
    values, weight = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    repeated = np.repeat(values, weight.astype(int))
    weighted, plain = entry_of(NUMBER, values, weight), entry_of(NUMBER, repeated)
    assert {n: weighted[n] for n in ("cuts", "counts")} == {n: plain[n] for n in ("cuts", "counts")}
    assert weighted["missing"] == pytest.approx(plain["missing"])
    codes = np.nan_to_num(np.clip(values, -1, 5), nan=-1).astype(np.int32)
    assert entry_of(CATEGORY, codes, weight) == entry_of(CATEGORY, np.repeat(codes, weight.astype(int)))
    then = entry_of(NUMBER, np.array(now))
    assert psi_of(then, values, weight) == pytest.approx(psi_of(then, repeated), nan_ok=True)
    assert psi_of(then, repeated) == pytest.approx(
        reference_of(now).psi(counted(reference_of(now), repeated[:, None]))[0], nan_ok=True
    )


@given(COLUMNS)
@settings(max_examples=200, deadline=None)
def test_bins_rise_and_each_holds_something(values: list[float]) -> None:
    known = np.clip(np.array([v for v in values if v == v], np.float32), -1e18, 1e18)
    cuts = cuts_of(known)
    assert len(cuts) < BINS
    assert all(a < b for a, b in itertools.pairwise(cuts))
    held = np.bincount(np.searchsorted(cuts, known), minlength=len(cuts) + 1)
    if 0 < len(set(known.tolist())) <= BINS - 2:  # what lies beside them would be news
        assert held[0] == held[-1] == 0
        held = held[1:-1]
    assert all(n > 0 for n in held) or not len(known)


def test_a_value_that_many_share_has_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(400), rng.normal(0, 1, 600)]).astype(np.float32)
    reference = reference_of(values.tolist())
    shifted = np.concatenate([np.zeros(100), rng.normal(0, 1, 900)])
    assert reference.psi(counted(reference, shifted[:, None]))[0] > 0.2
    assert 400 in reference.counts[0]


def test_two_values_are_told_apart_whichever_is_rare() -> None:
    reference = reference_of([1.0] * 950 + [0.0] * 50)
    assert reference.psi(counted(reference, [[1.0]] * 500 + [[0.0]] * 500))[0] > 1


def test_what_was_always_the_same_is_seen_to_move_either_way() -> None:
    reference = reference_of([7.0] * 100)
    for value in (6.0, 8.0):
        assert reference.psi(counted(reference, [[value]] * 100))[0] > 1
    assert reference.psi(counted(reference, [[7.0]] * 100))[0] == pytest.approx(0, abs=1e-9)


def test_the_index_of_noise_is_about_bins_less_one_over_both_sizes() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        reference = reference_of(rng.normal(size=2000).tolist())
        found.append(reference.psi(counted(reference, rng.normal(size=(500, 1))))[0])
    assert np.mean(found) == pytest.approx(9 * (1 / 2000 + 1 / 500), rel=0.15)


def test_a_value_that_training_never_saw_is_drift_where_values_are_few() -> None:
    reference = reference_of([0.0, 1.0, 2.0] * 100)
    for was, is_now in ((2.0, 9.0), (0.0, -3.0)):
        moved = [[is_now if value == was else value] for value in [0.0, 1.0, 2.0] * 100]
        assert reference.psi(counted(reference, moved))[0] > 1


@pytest.mark.parametrize(("codes", "never"), [((0, 1), 2), ((0, 2), 1), ((1, 2), 0), (tuple(range(9)), 9)])
def test_a_category_that_training_never_saw_is_drift_wherever_its_code_lies(codes: tuple[int, ...], never: int) -> None:
    column = np.array(codes * 100, np.int32)
    reference = Reference.of({"channel": entry_of(CATEGORY, column)})
    for code in codes:
        moved = np.where(column == code, never, column)
        assert reference.psi(counted(reference, moved[:, None]))[0] > 0.5
    assert reference.psi(counted(reference, column[:, None]))[0] == pytest.approx(0, abs=1e-9)


def test_codes_below_zero_are_not_known() -> None:
    column = np.array([-1, -1, 0, 0, 0, 1, 1, 1, 1, 1], np.int32)
    reference = Reference.of({"channel": entry_of("category", column)})
    assert reference.counts[0].tolist() == [3, 5, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert counted(reference, [[-1.0], [0.0], [1.0], [2.0]])[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_profiles_of_older_bundles_are_read() -> None:
    deciles = np.quantile(np.arange(1000.0), np.linspace(0, 1, 11)).tolist()
    tied = [0.0] * 6 + [1.0, 2.0, 3.0, 4.0, 9.0]
    profile = {
        "amount": {"deciles": deciles, "missing": 0.1},
        "tied": {"deciles": tied, "missing": 0.0},
        "channel": {"shares": {"-1": 0.1, "0": 0.7, "1": 0.2}},
        "word": {"shares": {str(i): 0.05 for i in range(20)}},
        "never": {"deciles": None, "missing": 1.0},
    }
    reference = Reference.of(profile, 1000)
    assert reference.names == ("amount", "tied", "channel", "word")
    assert reference.counts.sum(axis=1).tolist() == [1000] * 4
    assert reference.counts[0].tolist() == [90] * 10 + [100]
    assert reference.counts[1, :6].tolist() == [500, 100, 100, 100, 100, 100]
    assert (reference.counts[2, :2].tolist(), reference.counts[2, MISSING]) == ([700, 200], 100)
    assert reference.counts[3, 9] == 550
    same = counted(reference, np.full((1, 4), np.nan))
    assert same[:, MISSING].tolist() == [1, 1, 1, 1]
    assert len(Reference.of(profile)) == 0


def test_rows_count_as_many_independent_ones_as_there_are_entities() -> None:
    plan, n = small_plan(), 120
    rows: Columns = {
        "card": Text.of_strings(f"c{i % 10}" for i in range(n)),
        "shop": Text.of_strings("s" if i % 2 else None for i in range(n)),
    }
    found = independent(plan, rows, ["amount", "noise", SCORE])
    assert found == {"amount": 10.0, "noise": 10.0, SCORE: 10.0}
    one_customer: Columns = {**rows, "card": Text.of([b"c"] * n)}
    assert independent(plan, one_customer, ["amount"]) == {"amount": 1.0}
    strangers: Columns = {**rows, "card": Text.of([Text.MISSING] * n)}
    assert independent(plan, strangers, ["amount"]) == {"amount": float(n)}


# ---- merging ---------------------------------------------------------------------------------------------------------


def snapshot(table: Any, names: tuple[str, ...], events: int, at: int = 0) -> Snapshot:
    counts = dict(zip(names, table.tolist(), strict=True))
    return Snapshot(3, "hash", 0.5, at, at + 10, events, counts)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 60), max_size=6), st.randoms())
def test_merged_snapshots_are_what_is_counted_at_once(seed: int, cuts: list[int], random: Any) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(60, 3)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    reference = reference_of(*rng.normal(size=(3, 100)).tolist())
    bounds = sorted({0, 60, *cuts})
    parts = [
        snapshot(counted(reference, matrix, np.arange(a, b)), reference.names, b - a, a)
        for a, b in itertools.pairwise(bounds)
    ]
    sent = [msgspec.json.decode(msgspec.json.encode(p), type=Snapshot) for p in parts]
    random.shuffle(sent)
    half = len(sent) // 2
    groups = [m for m in (merge(sent[:half]), merge(sent[half:])) if m is not None]
    whole = merge(groups)
    assert whole is not None
    assert whole.events == 60
    np.testing.assert_array_equal(reference.table(whole.counts), counted(reference, matrix))
    assert (whole.from_ms, whole.to_ms) == (0, bounds[-2] + 10)


def test_a_snapshot_of_very_many_features_goes_in_parts() -> None:
    names = tuple(f"f{i}" for i in range(2 * FEATURES_AT_ONCE + 1))
    one = snapshot(np.ones((len(names), BINS + 1), np.int64), names, 50)
    assert [len(p.counts) for p in one.parts()] == [FEATURES_AT_ONCE, FEATURES_AT_ONCE, 1]
    assert merge(one.parts()) == one


def test_snapshots_of_two_bundles_do_not_merge() -> None:
    one = snapshot(np.zeros((1, BINS + 1), np.int64), ("x",), 1)
    with pytest.raises(ValueError, match="do not merge"):
        merge([one, msgspec.structs.replace(one, hash="other")])


# ---- the sample ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=8), min_size=1, max_size=200, unique=True), st.floats(0.01, 0.99), st.integers(0, 199))
@settings(max_examples=100, deadline=None)
def test_an_event_is_counted_or_not_whatever_stands_beside_it(names: list[str], share: float, cut: int) -> None:
    ids = Text.of_strings(names)
    whole = {names[i] for i in sampled(ids.hashes(), share).tolist()}
    parts = [np.arange(min(cut, len(names))), np.arange(min(cut, len(names)), len(names))]
    found = {names[int(p[i])] for p in parts for i in sampled(ids.take(p).hashes(), share).tolist()}
    assert found == whole
    assert whole <= {names[i] for i in sampled(ids.hashes(), min(1.0, share * 2)).tolist()}
    assert len(sampled(ids.hashes(), 1.0)) == len(names)


def test_the_sample_has_the_size_that_was_asked_for() -> None:
    ids = Text.of_strings(f"tx-{i}" for i in range(50_000)).hashes()
    assert len(sampled(ids, 0.1)) == pytest.approx(5_000, rel=0.05)


# ---- what a worker does ----------------------------------------------------------------------------------------------


class Broker:
    """Takes what is sent, or fails, or does not answer."""

    def __init__(self) -> None:
        self.sent: list[Snapshot] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def send(self, topic: str, partition: int, records: Any) -> list[Any]:
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        for key, value, _ in records:
            assert (topic, partition, key) == ("card_fraud.drift", 0, b"host/0")
            self.sent.append(msgspec.json.decode(value, type=Snapshot))
        return []


def live() -> Live:
    rows, fraud = cases.columns()
    values = cases.trained()[1]
    inputs = {i: values[i] for m in cases.plan().models for i in cases.plan().model_inputs(m)}
    outside = {n: v for n, v in inputs.items() if n not in cases.plan().models}
    score = Scorer(cases.plan(), cases.bundle()).score(rows).score
    people: Columns = {
        name: Text.of_strings(f"{name}-{i % 90}" for i in range(len(score))) for name in ("card", "shop")
    }
    profile = profile_of(cases.plan(), outside, people, score, people)
    about = {**cases.bundle().manifest, "profile": profile}
    bundle = type(cases.bundle())(msgspec.json.decode(msgspec.json.encode(about)), cases.bundle().files)
    assert fraud.any()
    return Live(3, bundle.content_hash, Scorer(cases.plan(), bundle))


def events(rows: int = 500, seed: int = 0, **changes: Any) -> Columns:
    found = cases.columns(rows, seed)[0]
    return {**found, "_id": Text.of_strings(f"e{seed}-{i}" for i in range(rows)), **changes}


def observed(drift: Drift, one: Live, columns: Columns) -> Scored:
    scored = one.scorer.score(columns)
    drift.observe(one, columns, scored)
    return scored


def made(broker: Broker, every_s: float = 0.01, share: float | None = 1.0) -> Drift:
    return Drift("tried", "card_fraud.drift", "host/0", broker.send, every_s, share)


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"use_case": "tried", **labels})


async def test_snapshots_hold_what_was_scored_however_it_was_cut() -> None:
    broker, one, columns = Broker(), live(), events()
    drift = made(broker)
    for first in range(0, 500, 7):
        observed(drift, one, take(columns, np.arange(first, min(first + 7, 500))))
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    whole = merge(broker.sent)
    assert whole is not None
    assert len(broker.sent) > 1
    assert (whole.bundle, whole.hash, whole.share, whole.events) == (3, one.hash, 1.0, 500)
    reference = Reference.of(one.scorer.bundle.profile)
    scored = one.scorer.score(columns)
    table = reference.table()
    layers = [(layer.name, layer.inputs) for layer in one.scorer.layers]
    count(places(reference, layers), scored.matrices, scored.score, np.arange(500), table)
    np.testing.assert_array_equal(reference.table(whole.counts), table)
    assert SCORE in whole.counts
    assert set(whole.counts) == {*one.scorer.inputs, SCORE}


async def test_gauges_tell_of_the_worst_only() -> None:
    broker, one = Broker(), live()
    drift = made(broker)
    amount = events()["amount"]
    assert isinstance(amount, np.ndarray)
    observed(drift, one, events(amount=amount * 100, to_usual=np.full(500, np.nan)))
    await asyncio.sleep(0.05)
    assert gauge("risk_drift_psi_ratio", feature="amount") == gauge("risk_drift_psi_max_ratio")
    assert (gauge("risk_drift_psi_max_ratio") or 0) > 1
    assert gauge("risk_drift_missing_ratio", feature="to_usual") == 1.0
    assert gauge("risk_drift_counted_events") == 500
    series = [s for m in REGISTRY.collect() if m.name == "risk_drift_psi_ratio" for s in m.samples]
    assert len(series) <= TOLD


async def test_a_broker_that_fails_or_hangs_harms_nobody() -> None:
    broker, one = Broker(), live()
    drift = made(broker)
    before = gauge("risk_drift_failures_total") or 0
    broker.error = RuntimeError("no such topic")
    observed(drift, one, events())
    await asyncio.sleep(0.05)
    assert gauge("risk_drift_failures_total") == before + 1
    broker.error = None
    broker.answers.clear()
    observed(drift, one, events(seed=1))
    await asyncio.sleep(0.05)
    for seed in (2, 3, 4):  # counted on while the second snapshot waits
        observed(drift, one, events(seed=seed))
        await asyncio.sleep(0.02)
    assert broker.sent == []
    broker.answers.set()
    await asyncio.sleep(0.05)
    assert sorted(s.events for s in broker.sent) == [500, 1500]


async def test_a_failure_while_counting_is_counted_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    broker, one = Broker(), live()
    drift = made(broker)
    before = gauge("risk_drift_failures_total") or 0
    columns = events()
    scored = one.scorer.score(columns)
    for _ in range(3):
        drift.observe(one, {"at_ms": columns["at_ms"]}, scored)
    assert gauge("risk_drift_failures_total") == before + 3
    assert "".join(capsys.readouterr()).count("drift is not measured") == 1


async def test_a_bundle_without_a_profile_is_not_watched() -> None:
    broker = Broker()
    bare = Live(1, cases.bundle().content_hash, Scorer(cases.plan(), cases.bundle()))
    drift = made(broker)
    observed(drift, bare, events())
    off = made(broker, every_s=0)
    observed(off, live(), events())
    await asyncio.sleep(0.05)
    assert broker.sent == []


def test_memory_is_bounded_by_hours_and_bundles() -> None:
    one = live()
    counted_here = Counted(one, 1.0, 0)
    for hour in range(HOURS + 30):
        counted_here.add(events(10, hour), one.scorer.score(events(10, hour)))
        counted_here.snapshot(hour * HOUR_MS)
    assert len(counted_here._hours) == HOURS
    assert counted_here.recent()[0].sum() == HOURS * 10
    drift = made(Broker(), every_s=1000.0)

    async def many() -> None:
        for i in range(BUNDLES + 3):
            observed(drift, Live(i, f"{i}", one.scorer), events(10))
        assert drift._timer is not None
        drift._timer.cancel()

    asyncio.run(many())
    assert list(drift._counted) == [str(i) for i in range(3, BUNDLES + 3)]


def test_the_share_follows_the_number_of_inputs_unless_it_is_given() -> None:
    one = live()
    assert Counted(one, None, 0).share == 1.0
    assert Counted(one, 0.25, 0).share == 0.25
    assert isinstance(Counted(one, None, 0)._places[0], Places)
