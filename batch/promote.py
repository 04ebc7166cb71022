"""How a challenger becomes champion: the race, a ramp of canary shares with a guard at each, the crown.

    race   judges all challengers on mature events, once for each field; says who won, or what it waits for
    ramp   gives the winner a share of the first entity's ids
    guard  waits until the share has shown enough, and takes the canary back where it differs by too much
    crown  makes it champion

Each step takes a Run and may be done again: what is done already is left alone.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from batch import guard as guards
from batch.alerts import ROLLED_BACK, alert
from batch.archive import archive
from batch.horse_race import run_race
from batch.lake import read_scores
from batch.retrain import Run, Summary
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from riskflow.keys import load_private_key
from riskflow.moves import CANARY, CHALLENGER, CHAMPION, Move
from riskflow.registry import Registry

POLL_S = 5.0
RAMP = "ramp"


class GuardFailed(RiskflowError):
    """The canary was taken back; the message names the guards and their numbers."""

    final = True


def race(run: Run) -> Summary:
    """{"winner": version or None, "waits": what for, "evidence": ...}."""
    aliases = run.registry().aliases()
    champion = aliases.get(CHAMPION)
    if champion is None:
        return {"winner": None, "waits": "there is no champion", "evidence": {}}
    challengers = {m.version: m for a, m in aliases.items() if _challenges(a) and m.version != champion.version}
    if not challengers:
        return {"winner": None, "waits": "nobody challenges", "evidence": {}}
    archive(run.plan, run.conf)
    return run_race(run, champion, [challengers[v] for v in sorted(challengers)])


def _challenges(alias: str) -> bool:
    return alias.partition(":")[0] == CHALLENGER


def ramp(run: Run, version: int, share: float, who: str = RAMP, why: str = "") -> Summary:
    """Makes the version canary with this share of the first entity's ids."""
    registry = run.registry()
    canary = registry.aliases().get(CANARY)
    if canary is None or canary.version != version or (canary.share or 0.0) < share:
        canary = registry.move(
            CANARY, version, share=share, who=who, why=why or f"ramp to {share:.0%}",
            private_key=load_private_key(run.conf.keys_folder),
        )  # fmt: skip
    return {"version": version, "share": canary.share, "at_ms": canary.at_ms}


def guard(run: Run, version: int, share: float, poll_s: float = POLL_S) -> Summary:
    """Waits until the share has shown enough; raises GuardFailed after the canary was taken back."""
    deadline = time.monotonic() + duration_ms(run.pipeline.file.ramp.patience) / 1000
    while True:
        archive(run.plan, run.conf)
        found = look(run, version)
        if found.failed:
            _take_back(run, version, share, "; ".join(check.sentence() for check in found.failed))
        if found.enough:
            return found.to_json()
        if time.monotonic() > deadline:
            _take_back(run, version, share, f"{found.waits} within {run.pipeline.file.ramp.patience}")
        time.sleep(poll_s)


def crown(run: Run, version: int, who: str = RAMP, why: str = "") -> Summary:
    """Makes the canary, or a challenger, champion; it is canary and challenger no longer."""
    registry = run.registry()
    champion = registry.champion()
    if champion is None or champion.version != version:
        champion = registry.move(
            CHAMPION, version, who=who, why=why or f"won the race, passed its ramp (run {run.name})",
            private_key=load_private_key(run.conf.keys_folder),
        )  # fmt: skip
    return {"version": champion.version, "at_ms": champion.at_ms, "number": champion.number}


# ---- what a guard looks at -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the canary has decided at its present share, beside what the champion decided since the ramp began."""

    canary: guards.Seen
    champion: guards.Seen
    checks: list[guards.Check]
    waits: str

    @property
    def failed(self) -> list[guards.Check]:
        return guards.failed(self.checks)

    @property
    def enough(self) -> bool:
        return not self.waits

    def to_json(self) -> dict[str, Any]:
        return {
            "canary": asdict(self.canary), "champion": asdict(self.champion),
            "checks": [check.to_json() for check in self.checks], "waits": self.waits,
        }  # fmt: skip


def look(run: Run, version: int) -> Look:
    """Both by what is archived; raises GuardFailed when somebody else has moved the canary or the champion."""
    limits, registry = run.pipeline.file.ramp, run.registry()
    canary, champion = registry.aliases().get(CANARY), registry.champion()
    if canary is None or canary.version != version or champion is None:
        raise GuardFailed(f"{version} is no canary of {run.plan.name} any more: somebody has moved it")
    scores = read_scores(run.plan, run.names, run.conf.lake_folder)
    mine = guards.Seen.of(scores, version, canary.at_ms)
    its = guards.Seen.of(scores, champion.version, _ramp_began_ms(registry, canary))
    waits = ""
    if mine.events < limits.fewest_events:
        waits = f"{mine.events} of {limits.fewest_events} events were decided by the canary"
    elif mine.span_ms < duration_ms(limits.hold):
        waits = f"its events span {mine.span_ms / 1000:.0f} s, {limits.hold} are wanted"
    return Look(mine, its, guards.checks(mine, its, limits), waits)


def _ramp_began_ms(registry: Registry, canary: Move) -> int:
    """When this version became canary; earlier ramps of it do not count."""
    began = canary.at_ms
    for move in reversed(registry.history(CANARY)):
        if move.version != canary.version:
            break
        began = move.at_ms
    return began


def _take_back(run: Run, version: int, share: float, why: str) -> None:
    registry = run.registry()
    registry.retire(CANARY, who="guard", why=why, private_key=load_private_key(run.conf.keys_folder))
    text = f"{run.plan.name}: canary {version} at {share:.0%} was taken back. {why}"
    alert(run.conf, run.pipeline, run.plan.name, ROLLED_BACK, text, {"version": version, "share": share, "why": why})
    raise GuardFailed(text)
