"""Can scores and models be answered? Every check says what was found, and what to do where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from riskflow.connect import ERRORS
from riskflow.errors import RiskflowError
from riskflow.registry_reader import first_bundle
from serving.progress import Status
from serving.schemas import Check
from serving.services import Served


def checks(served: dict[str, Served], redis: Any) -> list[Check]:
    """All checks. A use case without a scores topic is not set up yet and holds nothing back, unless all are."""
    statuses = {name: s.progress.status() for name, s in served.items()}
    set_up = [name for name in served if statuses[name].set_up]
    found = [_kafka(list(statuses.values())), _redis(redis)]
    if not set_up:
        found.append(Check(name="use cases", ok=False, detail="none has a scores topic. Run `riskflow topics`"))
    for name in set_up:
        found.append(_scores(name, statuses[name]))
        if found[1].ok:
            found += _champion(name, served[name])
    return found


def _kafka(statuses: list[Status]) -> Check:
    if any(s.reachable for s in statuses):
        return Check(name="kafka", ok=True, detail="answers")
    why = next((s.error for s in statuses if s.error), "no answer for 10 s")
    return Check(name="kafka", ok=False, detail=f"does not answer: {why}. Run `riskflow up`")


def _redis(redis: Any) -> Check:
    try:
        redis.ping()
    except ERRORS as error:
        return Check(name="redis", ok=False, detail=f"does not answer: {error}. Run `riskflow up`")
    return Check(name="redis", ok=True, detail="answers")


def _scores(usecase: str, status: Status) -> Check:
    name = f"{usecase}.scores"
    if status.behind_s is None:
        more = f", {status.behind_records} records to go" if status.behind_records is not None else ""
        return Check(name=name, ok=False, detail=status.error or f"not read up to the end yet{more}")
    detail = f"read up to {status.behind_s:.1f} s ago"
    if not status.caught_up:
        detail += f": {status.error or f'{status.behind_records} records to go'}"
    return Check(name=name, ok=status.caught_up, detail=detail)


def _champion(usecase: str, served: Served) -> Iterator[Check]:
    name = f"{usecase}.champion"
    try:
        version = served.models.champion()
    except (*ERRORS, RiskflowError) as error:
        yield Check(name=name, ok=False, detail=f"the registry cannot be read: {error}")
        return
    none = f"no bundle has been published. Run {first_bundle(usecase)}"
    yield Check(name=name, ok=version is not None, detail=none if version is None else f"version {version}")
