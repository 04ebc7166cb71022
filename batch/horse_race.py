"""Who races, on which events, and the verdict: champion and challengers on what shadow scores and labels say of them.

A race begins with the first event that all of them have scored, but for those that came late. It ends when the horizon
has passed, its events are mature, and enough of them are frauds; until then nobody looks at who leads. Then it is
judged (batch/race.py), once: the verdict is kept (batch/verdicts.py), and no challenger is judged again on events on
which it was judged before.
What one of them declines is left out, unless enough of what the champion declines was let through to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from batch.archived import collected
from batch.backtest import Costs
from batch.let_through import FEWEST, read_decisions
from batch.pipeline_promotion import RaceFile
from batch.race import COST, Entrant, Money, Result, race
from batch.run import Run
from batch.shadow_scores import read_shadow_scores
from batch.training_set import AS_LABELLED, WEIGHT
from batch.truth import terms_of, truth
from batch.verdicts import Verdict, judged_until_ms, read_verdict, verdict_path, write_verdict
from riskflow.bundle import Bundle
from riskflow.columns import Text
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from riskflow.evaluate import ID, KIND, TIME
from riskflow.moves import Move, is_challenger
from riskflow.policy import ACTIONS, DAY_MS, DECLINE

EVENT, AT, ENTITY, FRAUD, LOST, LET = "event_id", "at_ms", "entity", "fraud", "lost", "let_through"
LATE = 0.01  # share of events that may have come so late that they are older than the race
SCORE, ACTION = "score_{}", "action_{}"  # of a version


@dataclass(frozen=True)
class Field:
    """Events of which the truth is known and that all have scored, in order of time, with how many each stands for;
    one column of scores and of actions for each version."""

    table: pl.DataFrame
    champion: int
    challengers: tuple[int, ...]
    begin_ms: int
    mature_ms: int  # events before this are mature
    declines: pl.DataFrame  # those that left the race because one of them declines them; the same columns

    def entrant(self, version: int) -> Entrant:
        return Entrant(version, self._column(SCORE.format(version)), self._column(ACTION.format(version)))

    def until(self, rules: RaceFile) -> Field:
        """The part that is judged: the horizon, or longer until enough frauds are in it."""
        end_ms = self.end_ms(rules)
        table, declines = (part.filter(pl.col(AT) < end_ms) for part in (self.table, self.declines))
        return replace(self, table=table, declines=declines, mature_ms=end_ms)

    def end_ms(self, rules: RaceFile) -> int:
        bad = self.table.filter(pl.col(FRAUD) > 0)[AT]
        enough = int(bad[rules.fewest_frauds - 1]) + 1 if len(bad) >= rules.fewest_frauds else 0
        return max(self.begin_ms + duration_ms(rules.horizon), enough)

    def waits(self, rules: RaceFile) -> str:
        """What the race waits for; empty when it can be judged."""
        if not len(self.table) and len(self.declines):
            return (
                f"of each of {len(self.declines)} mature events one of those who race declines it: {self._decliners()}"
            )
        if not len(self.table):
            return "no mature event of which the truth is known was scored by the champion and all challengers"
        frauds = int(self.table[FRAUD].sum())
        horizon_ms = duration_ms(rules.horizon)
        if self.mature_ms < self.begin_ms + horizon_ms:
            passed = max(0, self.mature_ms - self.begin_ms) / DAY_MS
            return f"{passed:.1f} of {horizon_ms / DAY_MS:.1f} days of the horizon are mature"
        if frauds < rules.fewest_frauds:
            among = f" among events that none of them declines ({self._decliners()})" if len(self.declines) else ""
            return f"{frauds} of {rules.fewest_frauds} frauds are known{among}"
        return ""

    def _decliners(self) -> str:
        """Who declines how much: one that declines too much keeps everybody's race from its end."""
        both = pl.concat([self.table, self.declines])
        shares = {v: (both[ACTION.format(v)] == DECLINE).sum() / len(both) for v in (self.champion, *self.challengers)}
        return ", ".join(f"version {version} declines {share:.1%}" for version, share in shares.items())

    def judged(self, rules: RaceFile, money: Money | None) -> Result:
        others = [self.entrant(version) for version in self.challengers]
        return race(
            self.entrant(self.champion), others, self._column(FRAUD), self._column(ENTITY), alpha=rules.alpha,
            margin=rules.margin, replicates=rules.replicates, metric=rules.metric, money=money,
            weight=self._column(WEIGHT),
        )  # fmt: skip

    def declined_alone(self) -> dict[str, dict[str, int]]:
        """Of each challenger: events that it declines and the champion let pass, and how many of them were fraud."""
        passed = self.declines.filter(pl.col(ACTION.format(self.champion)) != DECLINE)
        mine = {v: passed.filter(pl.col(ACTION.format(v)) == DECLINE)[FRAUD] for v in self.challengers}
        return {str(v): {"events": len(fraud), "frauds": int(fraud.sum())} for v, fraud in mine.items()}

    def _column(self, name: str) -> Any:
        return self.table[name].to_numpy()


def run_race(run: Run, champion: Move, challengers: Sequence[Move]) -> Verdict:
    """{"winner": version or None, "waits": what for, "evidence": ...}. Raises RiskflowError for unknown costs."""
    path = verdict_path(run, champion, challengers)
    kept = read_verdict(path)
    if kept is not None:
        return kept
    rules, versions = run.pipeline.file.race, [c.version for c in challengers]
    costs = _costs(run, champion) if rules.metric == COST else None
    since_ms = max(move.at_ms for move in (champion, *challengers))
    field = field_of(run, champion.version, versions, costs, judged_until_ms(run, versions), since_ms)
    waits = field.waits(rules)
    if waits:
        return {"winner": None, "waits": waits, "evidence": {}}
    judged = field.until(rules)
    result = judged.judged(rules, _money(judged, costs))
    span = {"first_ms": judged.begin_ms, "last_ms": judged.mature_ms, "rules": _plain(rules)}
    bundles = {str(move.version): move.bundle_hash for move in (champion, *challengers)}
    about = {**result.to_json(), "bundles": bundles, "declined_alone": judged.declined_alone(), **span}
    verdict = {"winner": result.winner, "waits": "", "evidence": about}
    write_verdict(path, verdict)
    return verdict


def field_of(
    run: Run,
    champion: int,
    challengers: Sequence[int],
    costs: Costs | None = None,
    from_ms: int = 0,
    said_since_ms: int | None = None,
) -> Field:
    """All events from from_ms on whose truth is known, that the champion decided and every challenger scored.

    said_since_ms: when the last of their moves was made. Before it others may have looked at what they said, and in an
    emptied Redis their numbers may have been those of other bundles.
    """
    events, mature_ms = known_events(run, costs)
    scores = _side_by_side(run, champion, challengers, said_since_ms)
    if len(scores):
        scores = scores.filter(pl.col("occurred_at") >= from_ms)
    table = events.join(scores, on=EVENT, how="inner").sort(AT, EVENT)
    begin_ms = int(scores["occurred_at"].quantile(LATE, "lower")) if len(scores) else 0  # type: ignore[arg-type]
    leaves = _out_of_sight(run, table, begin_ms)
    return Field(table.filter(~leaves), champion, tuple(challengers), begin_ms, mature_ms, table.filter(leaves))


def _out_of_sight(run: Run, table: pl.DataFrame, begin_ms: int) -> pl.Series:
    """Which events leave the race: those that one of them declines, unless it is known what the champion declines.

    What the champion scored highest, its best hits, left by being declined. If what a challenger scores as high stayed,
    one that is no better would win nearly always; and a few that were let through, with all the weight, make it chance.
    """
    rules, none = run.pipeline.file, pl.Series([False]).new_from_index(0, len(table))
    tried = table.filter(pl.col(AT) < begin_ms + duration_ms(rules.race.horizon))[LET].sum()
    if rules.declined == AS_LABELLED or tried >= FEWEST:
        return none
    actions = [name for name in table.columns if name.startswith(ACTION.format(""))]
    return table.select(pl.any_horizontal(LET, *(pl.col(name) == DECLINE for name in actions)).alias(LET))[LET]


def known_events(run: Run, costs: Costs | None = None) -> tuple[pl.DataFrame, int]:
    """One line for each event whose truth is known, and the time before which events had time to get their label."""
    rows = collected(run)
    chosen = np.flatnonzero(np.asarray(rows[KIND]) == 0)
    found = truth(run, rows, chosen)
    chosen, fraud, weight = chosen[found.known], found.fraud[found.known], found.weight[found.known]
    ids, entity = _texts(rows[ID]).take(chosen), _texts(rows[run.plan.entities[0]]).take(chosen)
    lost: Any = np.zeros(len(chosen))
    if costs is not None:
        each = costs.missed_fraud
        lost = np.nan_to_num(np.asarray(rows[each], np.float64)[chosen]) if isinstance(each, str) else lost + each
    table = pl.DataFrame(
        {
            EVENT: ids.strings(), AT: np.asarray(rows[TIME])[chosen], ENTITY: entity.hashes(), FRAUD: fraud,
            WEIGHT: weight, LOST: lost, LET: np.isin(ids.hashes(), read_decisions(run).let),
        }
    )  # fmt: skip
    return table.unique(EVENT, keep="first", maintain_order=True), terms_of(run, rows).until_ms


def _side_by_side(
    run: Run, champion: int, challengers: Sequence[int], said_since_ms: int | None = None
) -> pl.DataFrame:
    """event_id, occurred_at, and score and action of each version; events that lack one are left out.

    What a version said as a shadow does not count: people have looked at it, and let those challenge that did best.
    """
    found = read_shadow_scores(run.plan, run.names, run.conf.lake_folder, said_since_ms=said_since_ms)
    if not len(found):
        return found
    found = found.filter(pl.col("decided_bundle") == champion)
    challenging = found.filter(pl.col("alias").is_in([a for a in found["alias"].unique() if is_challenger(a)]))
    mine = {"decided_score": SCORE.format(champion), "decided_action": ACTION.format(champion)}
    out = found.unique(EVENT, keep="first").select(EVENT, "occurred_at", *(pl.col(a).alias(b) for a, b in mine.items()))
    for version in challengers:
        its = challenging.filter(pl.col("bundle") == version).unique(EVENT, keep="first")
        names = {"score": SCORE.format(version), "action": ACTION.format(version)}
        out = out.join(its.select(EVENT, *(pl.col(a).alias(b) for a, b in names.items())), on=EVENT, how="inner")
    numbers = {name: number for number, name in enumerate(ACTIONS)}
    actions = [name for name in out.columns if name.startswith(ACTION.format(""))]
    return out.with_columns(pl.col(name).replace_strict(numbers, return_dtype=pl.Int8) for name in actions)


def _costs(run: Run, champion: Move) -> Costs:
    numbers = Bundle.from_bytes(run.registry().raw(champion.version)).policy
    costs = Costs.of(numbers)
    if costs is None:
        raise RiskflowError(
            f"{run.pipeline.path}: race.metric is cost, and the champion's policy has none. Declare `costs` in "
            "policy.yaml, or race by average_precision"
        )
    return costs


def _money(field: Field, costs: Costs | None) -> Money | None:
    return Money(field.table[LOST].to_numpy(), costs.review, costs.wrong_decline) if costs else None


def _plain(rules: RaceFile) -> dict[str, Any]:
    return {name: getattr(rules, name) for name in rules.__struct_fields__}


def _texts(column: Any) -> Text:
    assert isinstance(column, Text)
    return column
