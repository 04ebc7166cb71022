"""The policy: what a score means and what is done about it. policy.yaml states wishes, `judge` makes numbers of them.

    review:  {alerts_per_day: 100} | {threshold: 0.3}      alerts are all events that are not approved by their score
    decline: {precision: 0.9}      | {threshold: 0.95}     the lowest score from which on so many are fraud
    costs:   {review: 4, missed_fraud: 120, wrong_decline: 30}                      instead of the two above
    bands:   {low: 0, medium: 0.1, high: 0.4, critical: 0.9}                        default: made from the thresholds
    rules:   [{name: burst, when: "customer_activity_events_count_1h > 10", action: review, reason: "..."}]
    reasons: {"customer_activity_amount_*": "spends {value}, usually {usual}"}
    let_through: 0.01        share of what the score would decline that is reviewed instead, to learn from; default 0

The action is the strongest of the score's and of the rules that hold (approve < review < decline). A rule with the
action `approve` silences the score, never another rule. A score that could not be worked out (NaN) is reviewed.
A condition may use the score itself, under the name `score`.

Who is let through is a function of the event's id, so every reader can work it out again; the first reason says it with
the share, which is the odds that training weighs by. What a rule declines is never let through.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from riskflow.columns import F8, I8, Columns, Text
from riskflow.declare import NUMBER, FieldType
from riskflow.errors import DeclarationError
from riskflow.evaluate import ID
from riskflow.expressions import Expression, compile_expression
from riskflow.plan import ANY_FEED, MODEL, TIME, Plan
from riskflow.typed_yaml import Lines, read_typed, shown, where

ACTIONS = ("approve", "review", "decline")
APPROVE, REVIEW, DECLINE = range(3)
SCORE = "score"
DAY_MS = 86_400_000
DECIMALS = 6
LET_THROUGH = "let through to learn, share "  # how the reason of such an event begins
_LET_SEED = 0x1E7
FEWEST_DECLINES = 10  # rows that a precision must be seen on; fewer say nothing

I1 = NDArray[np.int8]
Bools = NDArray[np.bool_]
Share = Annotated[float, Meta(ge=0, le=1)]
Once = Callable[[str, Callable[[], Any]], Any]  # (key, how to make it): what others made under the key, or makes it
Numbers = dict[str, Any]  # the policy as it stands in a bundle: thresholds resolved, plain JSON


class Review(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    alerts_per_day: Annotated[float, Meta(gt=0)] | None = None
    threshold: Share | None = None


class Decline(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    precision: Annotated[float, Meta(gt=0, le=1)] | None = None
    threshold: Share | None = None


class Costs(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """In one currency, for one event each."""

    review: Annotated[float, Meta(gt=0)]
    missed_fraud: Annotated[float, Meta(gt=0)]
    wrong_decline: Annotated[float, Meta(gt=0)]


class Rule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
    when: str
    action: Literal["approve", "review", "decline"]
    reason: str = ""


class PolicyFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    review: Review | None = None
    decline: Decline | None = None
    costs: Costs | None = None
    bands: dict[str, Share] = {}
    rules: list[Rule] = []
    reasons: dict[str, str] = {}
    let_through: Annotated[float, Meta(ge=0, le=0.5)] = 0.0


@dataclass(frozen=True)
class Policy:
    """A team's wishes, checked for themselves; `check` also holds them against a plan."""

    file: PolicyFile
    path: Path = Path("policy.yaml")
    lines: Lines | None = None

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Reads policy.yaml; raises DeclarationError naming file, line and fix."""
        policy = cls(*_read(path))
        policy._check_alone()
        return policy

    def at(self, place: str) -> str:
        return where(self.path, self.lines or {}, place)

    def check(self, plan: Plan) -> None:
        """Compiles every rule and looks for every feature that a reason text is for."""
        types = columns_of_events(plan)
        for i, rule in enumerate(self.file.rules):
            compile_expression(rule.when, types, self.at(f"$.rules[{i}].when"))
        for pattern, text in self.file.reasons.items():
            _check_reason(self.at(f"$.reasons.{pattern}"), pattern, text, types)

    def start(self) -> Numbers:
        """Numbers for a start by rules alone: the score is 0 and decides nothing."""
        return self._numbers(None, None, {"score": "rules only"})

    def resolve(self, score: F8, y: F8 | NDArray[Any], at_ms: I8, weight: F8 | None = None) -> Numbers:
        """Numbers from a validation span: final scores, what they turned out to be (1 = fraud), and event times.

        weight: how many events each row stands for; one by default.
        """
        if len(score) == 0 or np.isnan(score).any():
            raise DeclarationError(shown(self.path), "is resolved on no or on unknown scores", "Give scored rows")
        review = self._review_threshold(score, at_ms, weight)
        decline = self._decline_threshold(score, np.asarray(y) > 0, weight)
        if review is not None and decline is not None:
            decline = max(decline, review)  # what is not even looked at is not declined
        return self._numbers(review, decline, {"rows": len(score), "days": round(_days(at_ms), 6)})

    def _review_threshold(self, score: F8, at_ms: I8, weight: F8 | None) -> float | None:
        if self.file.costs:
            return cost_thresholds(self.file.costs)[0]
        wish = self.file.review
        if wish is None or wish.alerts_per_day is None:
            return wish.threshold if wish else None
        return threshold_for_alerts(score, wish.alerts_per_day * _days(at_ms), weight)

    def _decline_threshold(self, score: F8, fraud: Bools, weight: F8 | None) -> float | None:
        if self.file.costs:
            return cost_thresholds(self.file.costs)[1]
        wish = self.file.decline
        if wish is None or wish.precision is None:
            return wish.threshold if wish else None
        return threshold_for_precision(score, fraud, wish.precision, weight)

    def _numbers(self, review: float | None, decline: float | None, span: dict[str, Any]) -> Numbers:
        wishes = {k: v for k, v in msgspec.to_builtins(self.file).items() if k in ("review", "decline", "costs") and v}
        bands = sorted(self.file.bands.items(), key=lambda b: b[1]) or default_bands(review, decline)
        let = {"let_through": self.file.let_through} if self.file.let_through else {}
        return {
            **let,
            "review": review,
            "decline": decline,
            "bands": [[name, float(bound)] for name, bound in bands],
            "rules": msgspec.to_builtins(self.file.rules),
            "reasons": dict(self.file.reasons),
            "wishes": wishes,
            "span": span,
        }

    def _check_alone(self) -> None:
        file = self.file
        if file.costs and (file.review or file.decline):
            raise DeclarationError(self.at("$.costs"), "stands beside review or decline", "Keep one way")
        if file.let_through and not (file.decline or file.costs):
            raise DeclarationError(self.at("$.let_through"), "lets through what no score declines", "Give decline")
        for name, wish in (("review", file.review), ("decline", file.decline)):
            if wish is not None and len([v for v in msgspec.to_builtins(wish).values() if v is not None]) != 1:
                ways = " or ".join(wish.__struct_fields__)
                raise DeclarationError(self.at(f"$.{name}"), "does not name exactly one wish", f"Give {ways}")
        bounds = sorted(file.bands.values())
        if bounds and (bounds[0] != 0 or len(set(bounds)) < len(bounds)):
            raise DeclarationError(self.at("$.bands"), f"has the bounds {bounds}", "Start at 0, each bound once")
        names = [r.name for r in file.rules]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise DeclarationError(self.at(f"$.rules[{i}].name"), f"{name!r} is there twice", "Rename one")


def _read(path: Path) -> tuple[PolicyFile, Path, Lines]:
    file, lines = read_typed(path, PolicyFile)
    return file, path, lines


def _check_reason(who: str, pattern: str, text: str, types: Mapping[str, FieldType]) -> None:
    if not any(fnmatch.fnmatchcase(name, pattern) for name in types):
        import difflib

        near = ", ".join(difflib.get_close_matches(pattern, types, 3, 0.4)) or "nothing like it"
        raise DeclarationError(who, "matches no feature", f"Nearest: {near}")
    try:
        text.format(value="", usual="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise DeclarationError(who, f"has a text that cannot be filled: {text!r}", "Use {value} and {usual}") from None


def columns_of_events(plan: Plan) -> dict[str, FieldType]:
    """What a rule may speak of: fields and features that scored rows have, and `score`."""
    scored = plan.scored.name
    known = {
        n.name: n.type for n in plan.nodes.values() if n.what != MODEL and (n.feeds == ANY_FEED or scored in n.feeds)
    }
    return {**known, TIME: FieldType(NUMBER, False), SCORE: FieldType(NUMBER, True)}


# ---- thresholds ------------------------------------------------------------------------------------------------------


def _days(at_ms: I8) -> float:
    """Length of the span; less than one day counts as one."""
    return max(1.0, float(at_ms.max() - at_ms.min()) / DAY_MS)


def threshold_for_alerts(score: F8, alerts: float, weight: F8 | None = None) -> float:
    """The lowest score from which on at most so many rows lie; the highest score there is when even that has more.

    >>> threshold_for_alerts(np.array([0.1, 0.2, 0.2, 0.9]), 2), threshold_for_alerts(np.array([0.5, 0.5]), 1)
    (0.9, 0.5)
    """
    values, index = np.unique(score, return_inverse=True)
    at_or_above = np.bincount(index, weights=weight, minlength=len(values))[::-1].cumsum()[::-1]
    fitting = values[at_or_above <= alerts]
    return float(fitting[0] if len(fitting) else values[-1])


def threshold_for_precision(score: F8, fraud: Bools, precision: float, weight: F8 | None = None) -> float | None:
    """The lowest score from which on at least this share is fraud; None when no score reaches it on enough rows."""
    values, index = np.unique(score, return_inverse=True)
    each = np.ones(len(score)) if weight is None else weight
    seen, rows, frauds = (
        np.bincount(index, weights=w, minlength=len(values))[::-1].cumsum()[::-1] for w in (None, each, each * fraud)
    )
    fitting = values[(frauds >= precision * rows) & (seen >= FEWEST_DECLINES)]
    return float(fitting[0]) if len(fitting) else None


def cost_thresholds(costs: Costs) -> tuple[float | None, float | None]:
    """Where each action becomes the cheapest for an event that is fraud with probability p.

    approve costs p * missed_fraud, review its price, decline (1 - p) * wrong_decline.

    >>> cost_thresholds(Costs(review=5, missed_fraud=100, wrong_decline=50))
    (0.05, 0.9)
    """
    review, decline = costs.review / costs.missed_fraud, 1 - costs.review / costs.wrong_decline
    if decline <= review:  # a review is never the cheapest
        review = decline = costs.wrong_decline / (costs.wrong_decline + costs.missed_fraud)
    return round(review, DECIMALS), round(decline, DECIMALS)


def default_bands(review: float | None, decline: float | None) -> list[tuple[str, float]]:
    """high from the review threshold on, critical from decline on, medium from half of review on."""
    high = min(0.5, decline or 0.5) if review is None else review
    bands = [("low", 0.0), ("medium", round(high / 2, DECIMALS)), ("high", high)]
    critical = round((1 + high) / 2, DECIMALS) if decline is None else decline
    return [b for i, b in enumerate([*bands, ("critical", critical)]) if i == 0 or b[1] > 0]


# ---- deciding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decided:
    """One value for each row; `hits` has one row for each rule."""

    action: I1
    band: I1
    hits: NDArray[np.bool_]


class Decider:
    """Resolved numbers at work."""

    def __init__(self, numbers: Numbers, plan: Plan) -> None:
        self.review = _or_never(numbers["review"])
        self.decline = _or_never(numbers["decline"])
        self.bands = tuple(name for name, _ in numbers["bands"])
        self._bounds = np.array([bound for _, bound in numbers["bands"]])
        self.rules = [msgspec.convert(rule, Rule) for rule in numbers["rules"]]
        self.conditions = rule_conditions(numbers, plan)
        self._actions = np.array([ACTIONS.index(r.action) for r in self.rules], np.int8)
        # Weakest first: an approving rule silences the score only.
        self._rules_of = [
            (a, rows) for a in (APPROVE, REVIEW, DECLINE) if len(rows := np.flatnonzero(self._actions == a))
        ]
        self._whens = [rule.when for rule in self.rules]
        self._let = float(numbers.get("let_through", 0.0))
        if self._let:  # a rule of its own, so that it stands among the reasons
            self.rules = [Rule("let_through", "", "review", f"{LET_THROUGH}{self._let}"), *self.rules]

    @property
    def columns(self) -> tuple[str, ...]:
        """What decisions look at, besides the score."""
        names = [n for condition in self.conditions for n in condition.names if n != SCORE]
        return tuple(dict.fromkeys([*names, *([ID] if self._let else [])]))

    def decide(self, score: F8, columns: Columns, once: Once | None = None) -> Decided:
        """Actions and bands of these (already rounded) scores; columns are those that the rules speak of.

        once: of all policies that decide on the very same columns; rules that do not ask for the score are tried once.
        """
        hits = self._hits(score, columns, once)
        action = (score >= self.review).astype(np.int8)
        action[np.isnan(score)] = REVIEW
        action[score >= self.decline] = DECLINE
        for rule_action, rules in self._rules_of:
            held = hits[rules].any(axis=0)
            action[held] = rule_action if rule_action == APPROVE else np.maximum(action[held], rule_action)
        if self._let:
            let = self._let_through(action, hits, columns[ID])
            action[let] = REVIEW
            hits = np.vstack([let, hits])
        return Decided(action, self._band(score), hits)

    def _let_through(self, action: I1, hits: NDArray[np.bool_], ids: Any) -> NDArray[np.bool_]:
        """Which of those that the score declines are reviewed instead."""
        by_rule = hits[self._actions == DECLINE].any(axis=0)
        chosen: NDArray[np.bool_] = (action == DECLINE) & ~by_rule & (uniform(ids, _LET_SEED) < self._let)
        return chosen

    def _hits(self, score: F8, columns: Columns, once: Once | None) -> NDArray[np.bool_]:
        if not self.conditions:
            return np.zeros((0, len(score)), np.bool_)
        known = {**columns, SCORE: score}

        def held(condition: Expression, when: str) -> Any:
            if once is None or SCORE in condition.names:
                return condition(known, len(score))
            return once(f"rule {when}", lambda: condition(known, len(score)))

        return np.stack([held(c, when) for c, when in zip(self.conditions, self._whens, strict=True)])

    def _band(self, score: F8) -> I1:
        band = self._bounds.searchsorted(score, "right") - 1
        band[(score != score) | (band < 0)] = 0
        return band.astype(np.int8)


def uniform(ids: Text, seed: int) -> F8:
    """A number in [0, 1) for each id, the same on every machine and as if drawn at random."""
    drawn: F8 = (ids.hashes(seed).view(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def rule_conditions(numbers: Numbers, plan: Plan) -> list[Expression]:
    """The compiled conditions of a policy's rules."""
    types = columns_of_events(plan) if numbers["rules"] else {}
    return [compile_expression(r["when"], types, f"rule {r['name']!r}") for r in numbers["rules"]]


def _or_never(threshold: float | None) -> float:
    return float("inf") if threshold is None else threshold
