"""How a challenger becomes champion: the race, a ramp of canary shares with a guard at each, the crown.

    race    judges all challengers on mature events, once for each field; says who won, or what it waits for
    ramp    gives the winner a share of the first entity's ids
    guard   looks once at what the share has shown; takes the winner back where it differs by too much
    crown   makes it champion
    reject  a person says no

Each step takes a Run and may be done again: what is done already is left alone. `raced` is what `race` said.

A canary never decides unwatched. A guard that says no, and a person who does, end the race for good: the winner
challenges no more. A guard that cannot see, or a champion that somebody has moved meanwhile, takes the canary off, and
the winner goes on as a challenger. What a killed process leaves behind is taken off by `take_back`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from batch import guard as guards
from batch.alerts import ROLLED_BACK, alert
from batch.archive import archive
from batch.canary_pairs import bring_pairs, canary_pairs
from batch.horse_race import run_race
from batch.run import Run, Summary
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from riskflow.keys import load_private_key
from riskflow.moves import CANARY, CHAMPION, RETIRED, Move, is_challenger
from riskflow.registry import Moved, Registry

RAMP, GUARD = "ramp", "guard"  # who moves
TRIES, PAUSE_S = 3, 20.0  # of a guard that cannot see
LOOKS = 10  # at the aliases, while somebody moves them
LATE_MS = 3_600_000  # a guard that has not spoken so long after its patience is dead
Raced = Mapping[str, Any]
T = TypeVar("T")

log = logging.getLogger(__name__)


class Stopped(RiskflowError):
    """The roll-out is over and the canary is off; the message says why."""

    final = True


class GuardFailed(Stopped):
    """For good: this version does not challenge any more. The message names the guards and their numbers."""


class Unwatched(Stopped):
    """The guard could not see what the canary does. The version still challenges; the next run begins its ramp anew."""


class Superseded(Stopped):
    """Another champion stands than the one that was beaten. The version still challenges: it races against that one."""


# ---- steps -----------------------------------------------------------------------------------------------------------


def race(run: Run) -> Summary:
    """{"winner": version or None, "waits": what for, "evidence": ..., "champion": who was raced against}."""
    take_back(run, "Its ramp has ended, and nobody guards it")
    aliases = run.registry().aliases()
    champion = aliases.get(CHAMPION)
    if champion is None:
        return {"winner": None, "waits": "there is no champion", "evidence": {}}
    challengers = {m.version: m for a, m in aliases.items() if is_challenger(a) and m.version != champion.version}
    if not challengers:
        return {"winner": None, "waits": "nobody challenges", "evidence": {}}
    archive(run.plan, run.conf)
    found = run_race(run, champion, [challengers[v] for v in sorted(challengers)])
    return {**found, "champion": {"version": champion.version, "number": champion.number}}


def ramp(run: Run, raced: Raced, share: float) -> Summary:
    """Makes the winner canary with this share of the first entity's ids."""
    registry, version = run.registry(), raced["winner"]

    def ramped(since: int) -> Move:
        _check_still_on(run, registry, raced)
        canary = registry.aliases().get(CANARY)
        if canary is not None and canary.version != version:
            raise Stopped(
                f"{run.plan.name}: version {version} cannot be canary: version {canary.version} is, by {canary.who}. "
                "Take that one off first: riskflow models retire canary"
            )
        if canary is not None and (canary.share or 0.0) >= share:
            return canary
        ended = _taken_off(registry, version) if canary is None else None
        if ended is not None:
            raise GuardFailed(
                _stop(run, version, f"It is no canary any more, by {ended.who}: {ended.why}", for_good=True)
            )
        why = f"ramp to {share:.0%}"
        return registry.move(CANARY, version, share=share, who=RAMP, why=why, private_key=_key(run), since=since)

    canary = _undisturbed(registry, ramped)
    return {"version": version, "share": canary.share, "at_ms": canary.at_ms}


def guard(run: Run, raced: Raced) -> Summary:
    """One look at the canary; `waits` says what for, empty when its share has shown enough. Raises Stopped."""
    try:
        return _patiently(lambda: _look(run, raced))
    except Stopped:
        raise
    except Exception as error:  # whatever it is, nobody sees what the canary does
        why = f"Its guard cannot see what it does: {type(error).__name__}: {error}"
        raise Unwatched(_stop(run, raced["winner"], why, for_good=False)) from error


def crown(run: Run, raced: Raced, who: str = RAMP, why: str = "") -> Summary:
    """Makes the canary champion; it is canary and challenger no longer."""
    registry, version = run.registry(), raced["winner"]
    why = why or f"won the race, passed its ramp (run {run.name})"

    def crowned(since: int) -> Move:
        champion = registry.champion()
        if champion is not None and champion.version == version:
            return champion
        _check_still_on(run, registry, raced)
        _canary(run, registry, version)
        return registry.move(CHAMPION, version, who=who, why=why, private_key=_key(run), since=since)

    champion = _undisturbed(registry, crowned)
    return {"version": champion.version, "at_ms": champion.at_ms, "number": champion.number}


def reject(run: Run, raced: Raced, who: str, why: str) -> Summary:
    """The winner challenges no more, because a person does not want it."""
    return {"version": raced["winner"], "retired": _retire(run, raced["winner"], who, f"rejected: {why}")}


def take_back(run: Run, why: str, older_than_ms: int = 0) -> Summary:
    """Takes off a canary that a ramp has made and nobody watches any more; one that a person has made stays."""
    canary = run.registry().aliases().get(CANARY)
    if canary is None or canary.who != RAMP or time.time() * 1000 < canary.at_ms + older_than_ms:
        return {"taken_back": None}
    _stop(run, canary.version, why, for_good=False)
    return {"taken_back": canary.version}


def take_back_late(run: Run) -> Summary:
    """The same with a canary whose guard should have spoken long ago."""
    patience = run.pipeline.file.ramp.patience
    why = f"Its guard has said nothing for longer than its patience, {patience}"
    return take_back(run, why, duration_ms(patience) + LATE_MS)


# ---- what a guard looks at -------------------------------------------------------------------------------------------


def _look(run: Run, raced: Raced) -> Summary:
    registry, version, limits = run.registry(), raced["winner"], run.pipeline.file.ramp
    champion = _check_still_on(run, registry, raced)
    canary = _canary(run, registry, version)
    bring_pairs(run)
    found = guards.look(canary_pairs(run, canary, champion), limits)
    if found.failed:
        why = "; ".join(check.sentence() for check in found.failed)
        raise GuardFailed(_stop(run, version, why, for_good=True))
    if found.waits and time.time() * 1000 > canary.at_ms + duration_ms(limits.patience):
        why = (
            f"Within {limits.patience}, {found.waits}. Change the section `ramp` (larger shares, more patience), then "
            f"let it race again: riskflow models promote {version} --alias challenger"
        )
        raise GuardFailed(_stop(run, version, why, for_good=True))
    return {**found.to_json(), "share": canary.share}


def _check_still_on(run: Run, registry: Registry, raced: Raced) -> Move:
    """The champion that was beaten, who still decides; raises Stopped where somebody has changed that."""
    version, beaten, champion = raced["winner"], raced["champion"], registry.champion()
    if champion is None or champion.number != beaten["number"]:
        now = "nobody" if champion is None else f"version {champion.version}, by {champion.who}: {champion.why}"
        why = f"It has beaten champion {beaten['version']} (move {beaten['number']}), and champion is now {now}"
        raise Superseded(_stop(run, version, why, for_good=False))
    ended = _retirement(registry, version)
    if ended is not None:
        raise Stopped(_stop(run, version, f"It challenges no more, by {ended.who}: {ended.why}", for_good=False))
    return champion


def _canary(run: Run, registry: Registry, version: int) -> Move:
    """The winner's move to canary; raises GuardFailed where it is none any more."""
    canary = registry.aliases().get(CANARY)
    if canary is not None and canary.version == version:
        return canary
    last = next(iter(registry.history(CANARY)[-1:]), None)
    by = "nobody has made it one" if last is None else f"by {last.who}: {last.why}"
    for_good = last is not None and last.who != GUARD
    raise GuardFailed(_stop(run, version, f"It is no canary any more, {by}", for_good=for_good))


def _taken_off(registry: Registry, version: int) -> Move | None:
    """The move by which a person ended the ramp of this version between two shares, if it was not let race again."""
    made, last = [None, None, *registry.history(CANARY)][-2:]
    if made is None or last is None or last.version != RETIRED or last.who == GUARD:
        return None
    challenged = [m.number for m in registry.history() if is_challenger(m.alias) and m.version == version]
    of_ramp = (made.who, made.version) == (RAMP, version)
    return last if of_ramp and last.number > max(challenged, default=0) else None


def _undisturbed(registry: Registry, act: Callable[[int], T]) -> T:
    """What `act` returns when no alias has moved between its look and its move; else it looks again.

    It is given the number of the newest move, for the registry to compare in the transaction of its own.
    """
    for _ in range(LOOKS - 1):
        with suppress(Moved):
            return act(registry.number())
    return act(registry.number())


def _patiently(look: Callable[[], T]) -> T:
    """A hiccup of Kafka or of a disk stops nobody; raises what the last try raised."""
    for _ in range(TRIES - 1):
        try:
            return look()
        except Stopped:
            raise
        except Exception:
            log.warning("the guard cannot see the canary, and tries again in %.0f s", PAUSE_S, exc_info=True)
            time.sleep(PAUSE_S)
    return look()


# ---- how it ends -----------------------------------------------------------------------------------------------------


def _stop(run: Run, version: int, why: str, *, for_good: bool) -> str:
    """Takes the canary off, and where it is for good the challenger before: a process that is killed between the two
    is found by `take_back`, and the version is not raced again. Returns what people are told."""
    if for_good:
        _retire(run, version, GUARD, why)
    share = _undisturbed(run.registry(), lambda since: _take_off(run, version, why, since))
    at = "" if share is None else f", canary at {share:.0%},"
    text = f"{run.plan.name}: version {version}{at} was taken back. {why}"
    alert(run.conf, run.pipeline, run.plan.name, ROLLED_BACK, text, {"version": version, "share": share, "why": why})
    return text


def _take_off(run: Run, version: int, why: str, since: int) -> float | None:
    """The share that this version had as canary, and has no more; None where it had none."""
    registry = run.registry()
    canary = registry.aliases().get(CANARY)
    if canary is None or canary.version != version:
        return None
    registry.retire(CANARY, who=GUARD, why=why, private_key=_key(run), since=since)
    return canary.share


def _retire(run: Run, version: int, who: str, why: str) -> list[str]:
    """Takes this version off every alias by which it challenges."""
    registry, retired = run.registry(), list[str]()

    def next_one(since: int) -> str | None:
        mine = _challenging(registry, version)
        if not mine:
            return None
        registry.retire(mine[0], who=who, why=why, private_key=_key(run), since=since)
        return mine[0]

    while alias := _undisturbed(registry, next_one):
        retired.append(alias)
    return retired


def _challenging(registry: Registry, version: int) -> list[str]:
    return [alias for alias, move in registry.aliases().items() if is_challenger(alias) and move.version == version]


def _retirement(registry: Registry, version: int) -> Move | None:
    """The move that took this version out of the race, if that was the last word on it as a challenger.

    A newer one that took over its alias is no such word: a retraining goes on while a winner is on its way.
    """
    if _challenging(registry, version):
        return None
    words = [m for m in registry.history() if is_challenger(m.alias) and version in (m.version, m.previous)]
    return words[-1] if words and words[-1].version == RETIRED else None


def _key(run: Run) -> Any:
    return load_private_key(run.conf.keys_folder)
