"""Policies: wishes that become numbers, rules that mean what they say, and errors that name file, line and fix."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskflow.columns import Columns, Text
from riskflow.declare import CATEGORY, FLAG, NUMBER, TEXT, FieldType
from riskflow.errors import DeclarationError
from riskflow.expressions import compile_expression
from riskflow.plan import Plan
from riskflow.policy import (
    APPROVE,
    DECLINE,
    REVIEW,
    Costs,
    Decider,
    Decline,
    Policy,
    PolicyFile,
    Review,
    Rule,
    cost_thresholds,
    default_bands,
    threshold_for_alerts,
    threshold_for_precision,
)
from riskflow.settings import PROJECT
from riskflow.usecase import load_usecase
from tests.unit.bundle_cases import plan

NAN = float("nan")
DAY_MS = 86_400_000
TYPES = {
    "amount": FieldType(NUMBER, True),
    "count_1h": FieldType(NUMBER, True),
    "night": FieldType(FLAG, True),
    "channel": FieldType(CATEGORY, True, ("chip", "online")),
    "note": FieldType(TEXT, True),
}
ROWS: Columns = {
    "amount": np.array([10.0, 2000.0, NAN]),
    "count_1h": np.array([9.0, 1.0, 7.0]),
    "night": np.array([1.0, 0.0, NAN]),
    "channel": np.array([1, 0, -1], np.int32),
    "note": Text.of_strings(["rent", "Łódź", None]),
}


def holds(source: str, rows: Columns = ROWS) -> list[bool]:
    return [bool(x) for x in compile_expression(source, TYPES, "rule 'r'")(rows, 3)]


def refused(source: str) -> str:
    with pytest.raises(DeclarationError) as error:
        compile_expression(source, TYPES, "rule 'r'")
    return str(error.value)


# ---- expressions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("amount > 100", [False, True, False]),
        ("amount != 10", [False, True, False]),
        ("not amount > 100", [True, False, True]),
        ("amount > 1000 and count_1h < 5 or count_1h >= 9", [True, True, False]),
        ("5 < count_1h <= 9", [True, False, True]),
        ("amount / count_1h > 2", [False, True, False]),
        ("(amount + 1) * 2 - 2 == 20", [True, False, False]),
        ("-amount < -100", [False, True, False]),
        ("amount / 0 > 5", [True, True, False]),
        ("night", [True, False, False]),
        ("not night", [False, True, True]),
        ('channel == "online"', [True, False, False]),
        ('channel != "online"', [False, True, False]),
        ('"online" == channel', [True, False, False]),
        ('channel in ("chip", "online")', [True, True, False]),
        ('channel not in ("chip",)', [True, False, False]),
        ('note == "rent"', [True, False, False]),
        ('note != "rent"', [False, True, False]),
        ('note in ["rent", "Łódź"]', [True, True, False]),
        ("is_missing(amount)", [False, False, True]),
        ("is_missing(channel) and is_missing(note) and is_missing(night)", [False, False, True]),
        ("True", [True, True, True]),
    ],
)
def test_a_condition_means_what_it_says(source: str, expected: list[bool]) -> None:
    assert holds(source) == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("amuont > 1", "'amuont' is not known. Nearest: amount"),
        ("amount >", "cannot be read"),
        ("amount", "Compare it with something"),
        ("amount > 1 and count_1h", "Compare it with something"),
        ('amount == "big"', "compared with the word 'big'"),
        ('channel == "onlin"', "It may be: chip, online"),
        ('channel > "chip"', "Words are compared by == and !="),
        ("channel == 1", "is a category, compared as a number"),
        ("note + 1 > 2", "not a number"),
        ("amount in (1, 2)", "List words only"),
        ("channel in amount", "is not a list"),
        ("amount is 3", "Use == or !="),
        ("amount ** 2 > 3", "Use + - * /"),
        ("~amount > 3", "Use - or not"),
        ("__import__('os').system('x')", "not known here"),
        ("open(amount) > 1", "The only function is is_missing"),
        ("is_missing(amount, note)", "The only function is is_missing"),
        ("is_missing('x')", "Name a column"),
        ("amount.real > 1", "not known here"),
        ("[x for x in amount]", "not known here"),
        ("(lambda: 1)()", "not known here"),
        ("amount[0] > 1", "not known here"),
        ("f'{amount}' == note", "not known here"),
        ("amount > 1e999", "not a number or a word"),
        ("amount > None", "not a number or a word"),
        ("1 if amount else 2", "not known here"),
        ("amount := 3", "cannot be read"),
        ("not " * 480 + "night", "nested too deeply"),
        ("amount > 1 or " * 200 + "night", "at most 2000"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_fix(source: str, words: str) -> None:
    assert words in refused(source)


@given(st.lists(st.sampled_from([NAN, -1.0, 0.0, 0.5, 3.0, 1e300]), min_size=1, max_size=9), st.data())
def test_a_row_is_decided_by_its_own_values(amounts: list[float], data: st.DataObject) -> None:
    n = len(amounts)
    rows: Columns = {
        "amount": np.array(amounts),
        "count_1h": np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=n, max_size=n))),
        "channel": np.array(data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)), np.int32),
    }
    condition = compile_expression('amount / count_1h > 1 or not channel == "chip" and amount < 1', TYPES, "r")
    whole = condition(rows, n).tolist()
    alone = [condition({k: c[i : i + 1] for k, c in rows.items()}, 1)[0] for i in range(n)]  # type: ignore[index]
    assert whole == alone
    for i, hit in enumerate(whole):
        amount, count, channel = (np.asarray(rows[k])[i] for k in ("amount", "count_1h", "channel"))
        with np.errstate(all="ignore"):
            assert hit == bool(amount / count > 1 or ((channel != 0) and amount < 1))


# ---- the file --------------------------------------------------------------------------------------------------------


def load(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return Policy.load(path)


GOOD = """
review: {alerts_per_day: 100}
decline: {precision: 0.9}
bands: {low: 0, high: 0.5}
rules:
  - name: big
    when: amount > 1000
    action: review
    reason: a large amount
reasons:
  activity_amount_*: "{value}, usually {usual}"
"""


def test_a_policy_is_read(tmp_path: Path) -> None:
    policy = load(tmp_path, GOOD)
    policy.check(plan())
    assert policy.file.rules == [Rule("big", "amount > 1000", "review", "a large amount")]
    assert policy.file.review == Review(alerts_per_day=100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "review: {alerts_per_dya: 3}",
            ["line 1, review.alerts_per_dya", "unknown field", "Did you mean alerts_per_day"],
        ),
        ("review: {}", ["line 1, review", "exactly one", "alerts_per_day or threshold"]),
        ("\nreview: {alerts_per_day: many}", ["line 2, review.alerts_per_day", "got `str`"]),
        ("review: {threshold: 1.5}", ["review.threshold", "<= 1"]),
        ("decline: {precision: 0}", ["decline.precision", "> 0"]),
        ("review: {threshold: 0.1, alerts_per_day: 2}", ["exactly one"]),
        (
            "costs: {review: 1, missed_fraud: 2, wrong_decline: 3}\nreview: {threshold: 0.1}",
            ["line 1, costs", "beside"],
        ),
        ("costs: {review: 1}", ["costs", "missing required field"]),
        ("bands: {low: 0.1, high: 0.5}", ["line 1, bands", "Start at 0"]),
        ("bands: {low: 0, high: 0.5, higher: 0.5}", ["each bound once"]),
        ("rules:\n- name: a\n  when: amount > 1\n  action: block", ["line 4, rules[0].action", "block"]),
        ("rules:\n- {name: a, when: x, action: review}\n- {name: a, when: x, action: review}", ["line 3", "twice"]),
        ("rules:\n- name: Big One\n  when: x\n  action: review", ["line 2, rules[0].name"]),
        ("review: {threshold: 0.2}\nreview: {threshold: 0.3}", ["has 'review' twice"]),
        ("review: [", ["not YAML"]),
        ("- a", ["policy.yaml, line 1"]),
        ("rview: {threshold: 0.2}", ["Did you mean review"]),
    ],
)
def test_a_mistake_is_named_with_file_line_and_fix(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(DeclarationError) as error:
        load(tmp_path, text)
    for word in ["policy.yaml", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules:\n- name: a\n  when: amuont > 1\n  action: review", ["line 3, rules[0].when", "Nearest: amount"]),
        ("\nreasons:\n  spending: high", ["line 3, reasons.spending", "matches no feature"]),
        ("reasons:\n  amount: '{amount} paid'", ["line 2, reasons.amount", "Use {value} and {usual}"]),
        ("reasons:\n  amount: '{value'", ["Use {value} and {usual}"]),
        ("rules:\n- {name: a, when: card_model > 1, action: review}", ["'card_model' is not known"]),
        ("rules:\n- {name: a, when: is_fraud > 0, action: review}", ["'is_fraud' is not known"]),
    ],
)
def test_a_policy_that_does_not_fit_the_plan_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    policy = load(tmp_path, text)
    with pytest.raises(DeclarationError) as error:
        policy.check(plan())
    for word in ["policy.yaml", *words]:
        assert word in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"policy\.yaml: cannot be read"):
        Policy.load(tmp_path / "policy.yaml")


def test_an_empty_policy_approves_everything(tmp_path: Path) -> None:
    numbers = load(tmp_path, "").start()
    assert numbers["review"] is numbers["decline"] is None
    assert decided(numbers, [0.0, 1.0]) == [APPROVE, APPROVE]


def test_every_input_of_card_frauds_models_has_words() -> None:
    shipped = Plan.of(load_usecase("card_fraud", PROJECT / "usecases"))
    reasons = Policy.load(PROJECT / "usecases" / "card_fraud" / "policy.yaml").file.reasons
    inputs = {i for model in shipped.models for i in shipped.model_inputs(model)} - set(shipped.models)
    assert [i for i in sorted(inputs) if not any(fnmatch.fnmatchcase(i, pattern) for pattern in reasons)] == []
    idle = [p for p in reasons if not fnmatch.filter(inputs, p)]
    assert idle == [], "words for what no model listens to"


@pytest.mark.parametrize("name", ["card_fraud"])
def test_the_shipped_policies_fit_their_plans(name: str) -> None:
    shipped = Plan.of(load_usecase(name, PROJECT / "usecases"))
    policy = Policy.load(PROJECT / "usecases" / name / "policy.yaml")
    policy.check(shipped)
    Decider(policy.start(), shipped)


# ---- thresholds ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(0, 70))
def test_alerts_keep_to_their_number(scores: list[int], alerts: int) -> None:
    score = np.array(scores) / 20
    found = threshold_for_alerts(score, alerts)
    assert (score >= found).sum() <= alerts or found == score.max()
    lower = score[score < found]
    assert not len(lower) or (score >= lower.max()).sum() > alerts


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=80), st.sampled_from([0.3, 0.5, 0.9]))
def test_a_precision_is_kept_by_the_lowest_threshold_that_does(rows: list[tuple[int, bool]], precision: float) -> None:
    score, fraud = np.array([s for s, _ in rows]) / 9, np.array([f for _, f in rows])
    good = [t for t in np.unique(score) if (score >= t).sum() >= 10 and fraud[score >= t].mean() >= precision]
    assert threshold_for_precision(score, fraud, precision) == (min(good) if good else None)


def test_wishes_become_numbers_on_a_span() -> None:
    score = np.arange(1000) / 1000
    fraud = (score >= 0.9).astype(float)
    at_ms = np.linspace(0, 10 * DAY_MS, 1000).astype(np.int64)
    policy = Policy(PolicyFile(review=Review(alerts_per_day=20), decline=Decline(precision=1.0)))
    numbers = policy.resolve(score, fraud, at_ms)
    assert (numbers["review"], numbers["decline"]) == (0.8, 0.9)
    assert numbers["span"] == {"rows": 1000, "days": 10.0}
    assert numbers["wishes"] == {
        "review": {"alerts_per_day": 20, "threshold": None},
        "decline": {"precision": 1.0, "threshold": None},
    }
    assert numbers["bands"] == [["low", 0.0], ["medium", 0.4], ["high", 0.8], ["critical", 0.9]]


def test_nothing_is_declined_that_would_not_be_reviewed() -> None:
    score = np.arange(100) / 100
    policy = Policy(PolicyFile(review=Review(threshold=0.7), decline=Decline(precision=0.5)))
    numbers = policy.resolve(score, np.ones(100), np.arange(100))
    assert (numbers["review"], numbers["decline"]) == (0.7, 0.7)


def test_scores_that_are_not_known_resolve_nothing() -> None:
    policy = Policy(PolicyFile(review=Review(threshold=0.7)))
    for score in (np.array([]), np.array([0.1, NAN])):
        with pytest.raises(DeclarationError, match="unknown scores"):
            policy.resolve(score, np.zeros(len(score)), np.arange(len(score)))


@given(st.floats(1, 100), st.floats(1, 1000), st.floats(1, 1000), st.floats(0, 1))
def test_costs_choose_the_cheapest_action(review: float, missed: float, wrong: float, p: float) -> None:
    low, high = cost_thresholds(Costs(review, missed, wrong))
    price = {APPROVE: p * missed, REVIEW: review, DECLINE: (1 - p) * wrong}
    chosen = DECLINE if p >= high else REVIEW if p >= low else APPROVE  # type: ignore[operator]
    assert price[chosen] <= min(price.values()) + 1e-5 * max(missed, wrong)


def test_default_bands_always_rise() -> None:
    for review, decline in [(None, None), (0.3, None), (None, 0.2), (0.3, 0.9), (0.9, 0.9), (1e-6, 1e-6)]:
        bounds = [b for _, b in default_bands(review, decline)]
        assert bounds[0] == 0
        assert bounds == sorted(bounds)


# ---- deciding --------------------------------------------------------------------------------------------------------


def decided(numbers: dict[str, Any], scores: list[float], **columns: Any) -> list[int]:
    rows = {"amount": np.zeros(len(scores)), **{k: np.array(v, float) for k, v in columns.items()}}
    return [int(a) for a in Decider(numbers, plan()).decide(np.array(scores), rows).action]


def numbers_with(*rules: tuple[str, Any]) -> dict[str, Any]:
    file = PolicyFile(
        review=Review(threshold=0.3),
        decline=Decline(threshold=0.8),
        rules=[Rule(f"rule_{i}", when, action) for i, (when, action) in enumerate(rules)],
    )
    return Policy(file).resolve(np.array([0.5]), np.array([1.0]), np.array([0]))


def test_the_score_decides_at_its_thresholds() -> None:
    assert decided(numbers_with(), [0.0, 0.299999, 0.3, 0.799999, 0.8, 1.0]) == [0, 0, 1, 1, 2, 2]


def test_a_score_that_could_not_be_worked_out_is_reviewed() -> None:
    assert decided(numbers_with(), [NAN]) == [REVIEW]
    assert decided(numbers_with(("amount > 5", "decline")), [NAN], amount=[9]) == [DECLINE]


def test_the_strongest_rule_holds() -> None:
    numbers = numbers_with(("amount > 5", "review"), ("amount > 50", "decline"))
    assert decided(numbers, [0.0] * 3, amount=[1, 9, 99]) == [APPROVE, REVIEW, DECLINE]
    assert decided(numbers, [0.9], amount=[9]) == [DECLINE]


def test_an_approving_rule_silences_the_score_only() -> None:
    numbers = numbers_with(("amount < 5", "approve"), ("amount < 1", "review"))
    assert decided(numbers, [0.9, 0.9, 0.9], amount=[3, 0, 9]) == [APPROVE, REVIEW, DECLINE]


def test_rules_may_use_the_score() -> None:
    numbers = numbers_with(("score > 0.1 and amount > 100", "review"))
    assert decided(numbers, [0.2, 0.05, 0.2], amount=[200, 200, 2]) == [REVIEW, APPROVE, APPROVE]


def test_bands_hold_from_their_bound_on() -> None:
    numbers = {**numbers_with(), "bands": [["low", 0.0], ["mid", 0.2], ["top", 0.9]]}
    decider = Decider(numbers, plan())
    band = decider.decide(np.array([0.0, 0.199999, 0.2, 0.9, 1.0, NAN]), {"amount": np.zeros(6)}).band
    assert [decider.bands[b] for b in band] == ["low", "low", "mid", "top", "top", "low"]
