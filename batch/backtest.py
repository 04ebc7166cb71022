"""A bundle and its policy over the archive: what they would have decided, beside what was decided live and the truth.

Nothing that is live is touched: a backtest reads the lake and, through a client that cannot write, the registry.

    found = backtest(run, bundle, shelf.needs, segments=["channel"])
    found.summary()

It can be done in parts (batch/backtest_parts.py): `count` of the days that `split_by_day` gives, joined by `merge`, is
`count` of the whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from batch.past import FRAUD, GENUINE, TRUTH, UNDECIDED, UNKNOWN, Needs, Past
from batch.replay import Progress
from batch.run import Run
from batch.score_batch import past_for, score_columns
from batch.tally import HUNDREDTHS, Cell, Tally, tally
from batch.training_set import WEIGHT
from riskflow.bundle import Bundle
from riskflow.columns import F8, Columns
from riskflow.declare import NUMBER
from riskflow.errors import DeclarationError, RiskflowError
from riskflow.evaluate import TIME
from riskflow.plan import Plan
from riskflow.policy import ACTIONS, APPROVE, DAY_MS, DECLINE, REVIEW, Numbers, Policy
from riskflow.scoring import Scorer

TRUTHS = {GENUINE: "genuine", FRAUD: "fraud", UNKNOWN: "unknown"}
ACTED = (APPROVE, REVIEW, DECLINE)  # not UNDECIDED
Kind = tuple[int, int]  # action and truth
OF_BUNDLE, OF_FILE = "the bundle", "a file, its wishes resolved on the very rows of this backtest"


@dataclass(frozen=True)
class Costs:
    """For one event each, in one currency. missed_fraud: a number, or the field whose value is lost."""

    missed_fraud: float | str
    review: float
    wrong_decline: float = 0.0

    @classmethod
    def of(cls, numbers: Numbers) -> Costs | None:
        """What a policy declares; None where it states no costs."""
        declared = numbers.get("wishes", {}).get("costs")
        return cls(**declared) if declared else None

    @property
    def lost_field(self) -> str | None:
        return self.missed_fraud if isinstance(self.missed_fraud, str) else None

    def check(self, plan: Plan) -> None:
        """The field must be a number that events have."""
        field = self.lost_field
        numbers = sorted(n for n, kind in plan.scored.types.items() if kind.kind == NUMBER)
        if field is not None and field not in numbers:
            raise DeclarationError(
                f"cost of a missed fraud {field!r}", "is neither a number nor a number field", f"Fields: {numbers}"
            )


@dataclass(frozen=True)
class About:
    """What was tried, and under which terms."""

    usecase: str
    bundle: int
    content_hash: str
    published: bool  # else the version says nothing yet
    review: float | None
    decline: float | None
    policy: str
    features: str  # where they come from
    segments: tuple[str, ...] = ()
    costs: Costs | None = None
    made_of: str = ""  # the bundle's hash that publishing does not change
    from_files: bool = False  # the events: else they are of the archive


@dataclass(frozen=True)
class Backtest:
    """What was tried, and what came of it."""

    about: About
    tally: Tally
    seconds: float = 0.0

    @property
    def days(self) -> float:
        """Less than one counts as one."""
        first, last = self.tally.first_ms or 0, self.tally.last_ms or 0
        return max(1.0, (last - first) / DAY_MS)

    def summary(self) -> dict[str, Any]:
        """Every figure, as JSON values."""
        decided = _where(self.tally, lambda cell: cell.live != UNDECIDED)
        return {
            **asdict(self.about), "segments": [*self.about.segments],
            "from_ms": self.tally.first_ms, "to_ms": self.tally.last_ms,
            "days": round(self.days, 6), "events": self.tally.events.total(), "decided_live": decided.events.total(),
            "figures": self.figures(self.tally, "action"),
            "beside_live": self._beside_live(decided), "own": self._own(decided), **self._flips(decided),
            "by": {name: self._by(i) for i, name in enumerate(self.about.segments)},
            "examples": [_example(e) for e in self.tally.examples], "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def figures(self, of: Tally, side: str) -> dict[str, Any]:
        """Alerts of all events; frauds, shares and money of those that the known ones stand for.

        side: `action`, the backtest's decisions, or `live`.
        """
        events: Counter[int] = Counter()  # by action
        known: dict[Kind, float] = defaultdict(float)
        lost: dict[Kind, float] = defaultdict(float)
        for cell, n in sorted(of.events.items()):  # sorted: the sum of shares depends on their order
            action = getattr(cell, side)
            events[action] += n
            known[action, cell.truth] += n * cell.stands_for
            lost[action, cell.truth] += of.lost_hundredths[cell] * cell.stands_for
        frauds, missed = sum(known[action, FRAUD] for action in ACTED), known[APPROVE, FRAUD]
        unknown = sum(n for cell, n in of.events.items() if getattr(cell, side) in ACTED and cell.truth == UNKNOWN)
        return {
            "events": of.events.total(), "frauds": _whole(frauds), "caught": _whole(frauds - missed),
            "missed": _whole(missed), "unknown": unknown,
            "alerts_per_day": (events[REVIEW] + events[DECLINE]) / self.days,
            "reviews_per_day": events[REVIEW] / self.days, "declines_per_day": events[DECLINE] / self.days,
            "flagged": _quality(events, known, (REVIEW, DECLINE), frauds),
            "review": _quality(events, known, (REVIEW,), frauds),
            "decline": _quality(events, known, (DECLINE,), frauds),
            "cost": _cost(self.about.costs, known, lost),
        }  # fmt: skip

    def _beside_live(self, decided: Tally) -> dict[str, Any] | None:
        """Both on the events that were decided live."""
        if not decided.events:
            return None
        return {"backtest": self.figures(decided, "action"), "live": self.figures(decided, "live")}

    def _own(self, decided: Tally) -> dict[str, int] | None:
        """What this very bundle had decided live: none of it may come out differently."""
        if not self.about.published or self.about.policy != OF_BUNDLE:
            return None
        own = _where(decided, lambda cell: cell.live_bundle == self.about.bundle)
        return {"events": own.events.total(), "flips": _where(own, _flipped).events.total()}

    def _flips(self, decided: Tally) -> dict[str, Any]:
        """The swap set: from which action to which, and what those events were."""
        swaps: dict[str, Counter[str]] = {}
        for cell, n in sorted(_where(decided, _flipped).events.items()):
            counts = swaps.setdefault(_flip_name(cell.live, cell.action), Counter())
            counts.update({"events": n, TRUTHS[cell.truth]: n})
        flipped = sum(counts["events"] for counts in swaps.values())
        named = {name: {k: counts[k] for k in ("events", *TRUTHS.values())} for name, counts in swaps.items()}
        return {"flipped": flipped, "flipped_share": _share(flipped, decided.events.total()), "flips": named}

    def _by(self, segment: int) -> dict[str, Any]:
        """Figures and flips of each group of a segment."""
        groups = sorted({cell.segments[segment] for cell in self.tally.events})
        return {group: self._group(segment, group) for group in groups}

    def _group(self, segment: int, group: str) -> dict[str, Any]:
        mine = _where(self.tally, lambda cell: cell.segments[segment] == group)
        flipped = _where(mine, lambda cell: cell.live != UNDECIDED and _flipped(cell))
        return {**self.figures(mine, "action"), "flipped": flipped.events.total()}


# ---- doing it --------------------------------------------------------------------------------------------------------


def backtest(run: Run, bundle: Bundle, needs: Needs, *, tell: Progress | None = None, **asked: Any) -> Backtest:
    """The bundle over a span. asked: as in `prepare`."""
    tried, found, about = prepare(run, bundle, needs, tell=tell, **asked)
    return Backtest(about, count(run.plan, tried, found.columns, about, tell))


def prepare(
    run: Run,
    bundle: Bundle,
    needs: Needs,
    *,
    policy: Policy | None = None,
    costs: Costs | None = None,
    segments: Sequence[str] = (),
    **span: Any,
) -> tuple[Bundle, Past, About]:
    """The bundle under the policy that is tried, the events, and what is to be counted.

    policy: another one than the bundle's. costs: others than that policy declares. span: as in `batch.past.past`.
    """
    declared = policy.start() if policy else bundle.policy
    costs = costs or Costs.of(declared)
    if costs:
        costs.check(run.plan)
    extra = [*segments, *([costs.lost_field] if costs and costs.lost_field else [])]
    _check_fields(run.plan, extra)
    tried = under(bundle, declared)
    found = past_for(run, tried, needs, tuple(extra), **span)
    if policy:
        tried = under(bundle, resolved(run.plan, policy, tried, found.columns))
    about = About(
        run.plan.name, bundle.version, bundle.content_hash, bool(bundle.signature), tried.policy["review"],
        tried.policy["decline"], OF_FILE if policy else OF_BUNDLE,
        found.says, tuple(segments), costs, bundle.made_of, span.get("tables") is not None,
    )  # fmt: skip
    return tried, found, about


def count(plan: Plan, bundle: Bundle, columns: Columns, about: About, tell: Progress | None = None) -> Tally:
    """Scores and decides these events and counts them: of all, or of a part."""
    scores = score_columns(Scorer(plan, bundle), columns, tell=tell)
    lost = about.costs.lost_field if about.costs else None
    return tally(plan, columns, scores.score, scores.action, about.segments, lost)


def under(bundle: Bundle, numbers: Numbers) -> Bundle:
    """The same models under another policy; nobody has signed that."""
    if numbers == bundle.policy:
        return bundle
    return replace(bundle, manifest={**bundle.manifest, "policy": numbers}, signature=b"", key="")


def resolved(plan: Plan, policy: Policy, bundle: Bundle, columns: Columns) -> Numbers:
    """The policy's wishes as numbers, on those of the events whose truth is known and that could be scored."""
    score: F8 = score_columns(Scorer(plan, bundle), columns).score
    truth = np.asarray(columns[TRUTH])
    rows = np.flatnonzero((truth != UNKNOWN) & ~np.isnan(score))
    if not len(rows):
        raise RiskflowError(
            f"{policy.path}: of no event of the span the truth is known, so no wish can be resolved. Choose an "
            "earlier --to"
        )
    weight = np.asarray(columns[WEIGHT])[rows]
    return policy.resolve(score[rows], truth[rows], np.asarray(columns[TIME])[rows], weight)


def _check_fields(plan: Plan, names: Sequence[str]) -> None:
    for name in names:
        if name not in plan.scored.types:
            raise DeclarationError(f"field {name!r}", "is in no event", f"Fields: {sorted(plan.scored.types)}")


# ---- counting --------------------------------------------------------------------------------------------------------


def _where(of: Tally, chosen: Callable[[Cell], bool]) -> Tally:
    """The same for some of the cells."""
    events = Counter({cell: n for cell, n in of.events.items() if chosen(cell)})
    return replace(of, events=events, lost_hundredths=Counter({cell: of.lost_hundredths[cell] for cell in events}))


def _flipped(cell: Cell) -> bool:
    return cell.live != cell.action


def _flip_name(live: int, action: int) -> str:
    return f"{ACTIONS[live]} -> {ACTIONS[action]}"


def _quality(
    events: Mapping[int, int], known: Mapping[Kind, float], actions: Sequence[int], frauds: float
) -> dict[str, Any]:
    """Precision and recall of these actions, over events whose truth is known."""
    hits, wrong = (sum(known[action, truth] for action in actions) for truth in (FRAUD, GENUINE))
    return {
        "events": sum(events[action] for action in actions), "frauds": _whole(hits),
        "precision": _share(hits, hits + wrong), "recall": _share(hits, frauds),
    }  # fmt: skip


def _whole(events: float) -> float:
    """As a whole number where it is one: events that stand for more than themselves alone need not be."""
    return int(events) if events == int(events) else round(events, 2)


def _cost(costs: Costs | None, known: Mapping[Kind, float], lost: Mapping[Kind, float]) -> Any:
    """What events whose truth is known cost: missed frauds, reviews, genuine ones declined."""
    if costs is None:
        return None
    each = costs.missed_fraud
    missed = lost[APPROVE, FRAUD] / HUNDREDTHS if isinstance(each, str) else known[APPROVE, FRAUD] * each
    reviews = (known[REVIEW, FRAUD] + known[REVIEW, GENUINE]) * costs.review
    wrong = known[DECLINE, GENUINE] * costs.wrong_decline
    parts = {"missed_fraud": missed, "review": reviews, "wrong_decline": wrong}
    return {**{k: round(v, 2) for k, v in parts.items()}, "total": round(sum(parts.values()), 2)}


def _example(example: Any) -> dict[str, Any]:
    about = asdict(example)
    del about["live"], about["action"]
    return {"flip": _flip_name(example.live, example.action), **about, "truth": TRUTHS[example.truth]}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
