"""Whose turn it is: what a retraining does while challengers race for the champion's place.

A race takes its horizon and the maturity of its labels, which is weeks. A new challenger begins it anew, so with a
retraining every night none would ever end. A retraining waits for it, unless an alias was named for its bundle, or
drift has asked for it: then the world is gone in which the challenger was made. Drift goes on asking until another
champion stands, so a challenger that was made since it began to is left to its race.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from batch.drift import asked_ms
from batch.pipeline_dags import CHALLENGER, DRIFT, alias_of
from batch.pipeline_promotion import JOIN, REPLACE
from batch.run import Run
from batch.verdicts import verdict_path
from riskflow.bundle import verify
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from riskflow.keys import load_public_keys
from riskflow.moves import CANARY, CHAMPION, MOST_BESIDE, Move, check_alias, is_beside, is_challenger
from riskflow.registry import Registry


class RaceRuns(RiskflowError):
    """A retraining waits for a race; the message says which, and until when."""

    final = True


def alias_for(run: Run, wanted: str | None, causes: Collection[str] = ()) -> str:
    """Who the bundle of a retraining becomes. Raises RaceRuns when it has to wait.

    wanted: an alias that somebody named; causes: what started the retraining, such as the asset `drift`.
    """
    if wanted:
        check_alias(wanted)
        return wanted
    usual, meanwhile = alias_of(run.pipeline.file), run.pipeline.file.race.meanwhile
    if usual != CHALLENGER or meanwhile == REPLACE:
        return usual
    registry = run.registry()
    aliases = registry.aliases()
    race = _under_way(run, registry, aliases)
    if not race or (DRIFT in causes and not _answers_drift(run, aliases)):
        return usual
    if meanwhile == JOIN and sum(map(is_beside, aliases)) < MOST_BESIDE:
        return f"{CHALLENGER}:{_name(run)}"
    raise RaceRuns(
        f"{run.plan.name}: {race}. This retraining waits. To take the challenger's place: --alias {CHALLENGER}; to "
        f"join the race, which begins it anew: --alias {CHALLENGER}:NAME; for every retraining: `race: {{meanwhile: "
        f"{REPLACE}}}` in pipeline.yaml"
    )


def _answers_drift(run: Run, aliases: Mapping[str, Move]) -> bool:
    """Whether the challenger was made since drift asked for the first time under this champion."""
    champion, challenger = aliases[CHAMPION], aliases.get(CHALLENGER)
    asked = [at_ms for at_ms in asked_ms(run) if at_ms > champion.at_ms]
    return challenger is not None and bool(asked) and challenger.at_ms > min(asked)


def _under_way(run: Run, registry: Registry, aliases: Mapping[str, Move]) -> str:
    """Which race is not over, in words; empty for none. One in which somebody cannot be loaded never ends by itself."""
    champion = aliases.get(CHAMPION)
    racing = {m.version: m for a, m in aliases.items() if is_challenger(a)}
    if champion is None or not racing.keys() - {champion.version}:
        return ""
    moves = [racing[v] for v in sorted(racing) if v != champion.version]
    if not all(_loads(run, registry, move.version) for move in moves):
        return ""
    verdict = verdict_path(run, champion, moves)
    if not verdict.is_file():
        return _still_racing(run, champion, moves)
    winner = json.loads(verdict.read_text())["winner"]
    return _rolling_out(run, aliases, winner, int(verdict.stat().st_mtime * 1000)) if winner else ""


def _still_racing(run: Run, champion: Move, moves: list[Move]) -> str:
    """Empty when its patience is at an end: too few frauds may ever be known among what nobody declines."""
    began_ms = max(move.at_ms for move in (champion, *moves))
    horizon, maturity_ms = run.pipeline.file.race.horizon, run.pipeline.maturity_ms
    until_ms = began_ms + duration_ms(horizon) + maturity_ms
    if began_ms + duration_ms(run.pipeline.file.race.patience) < time.time() * 1000:
        return ""
    who = ", ".join(str(move.version) for move in moves)
    return (
        f"version {who} races against champion {champion.version} since {_when(began_ms)}, and is judged about "
        f"{_when(until_ms)} at the earliest (a horizon of {horizon}, and the time that labels take)"
    )


def _rolling_out(run: Run, aliases: Mapping[str, Move], winner: int, judged_ms: int) -> str:
    """A winner is waited for while it is canary, and else as long as a person may take to answer."""
    if CANARY in aliases and aliases[CANARY].version == winner:
        return f"version {winner} has won its race and is being rolled out"
    until_ms = judged_ms + duration_ms(run.pipeline.file.answer_within)
    if until_ms < time.time() * 1000:
        return ""
    return f"version {winner} has won its race, and its roll-out is waited for until {_when(until_ms)}"


def _loads(run: Run, registry: Registry, version: int) -> bool:
    """Whether workers with this code can score with it."""
    try:
        verify(registry.raw(version), load_public_keys(run.conf.keys_folder), plan=run.plan)
    except RiskflowError:
        return False
    return True


def _name(run: Run) -> str:
    """Of a challenger that joins: the run's, so that a task that is tried again says the same."""
    return "r_" + re.sub("[^a-z0-9_]", "_", run.name.lower())[:60]


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="minutes")
