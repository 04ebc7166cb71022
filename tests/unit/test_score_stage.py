"""Which bundle the last stage waits for, and which it goes on with."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from riskflow.moves import CHAMPION
from riskflow.names import Names
from stream.batch import Batch
from stream.roster import Roster
from stream.score import Partitions, Score
from tests import support

PIN = {"version": 1, "hash": "abc", "number": 1}


class Nothing:
    """A registry whose champion this plan cannot use; pinned bundles can be loaded, or not."""

    found = False

    def __init__(self, *, usable: bool) -> None:
        self._usable = usable

    async def newest(self) -> Any:
        await asyncio.Event().wait()

    async def usable(self, roster: Roster) -> Roster | None:
        return roster if self._usable else None


def ready(rosters: list[dict[str, Any]], *, usable: bool = True) -> bool:
    """Whether the stage begins with these heads, or waits."""
    swap: Any = Nothing(usable=usable)
    score = Score(support.plan_of(), Names("card_fraud"), swap, "w", Partitions(1, 1, 1))
    heads: list[Any] = [SimpleNamespace(roster=roster, position=0, fence=0) for roster in rosters]
    try:
        asyncio.run(asyncio.wait_for(score.ready([Batch(h, []) for h in heads]), 0.05))
    except TimeoutError:
        return False
    return True


def test_a_worker_that_starts_while_the_champion_cannot_be_used_goes_on_with_what_its_heads_say() -> None:
    assert ready([{CHAMPION: PIN}, {CHAMPION: PIN}])


@pytest.mark.parametrize(
    ("rosters", "usable"), [([{}], True), ([{CHAMPION: PIN}, {}], True), ([{CHAMPION: PIN}], False)]
)
def test_it_waits_where_a_head_says_nothing_or_what_it_says_is_gone(rosters: Any, usable: bool) -> None:
    assert not ready(rosters, usable=usable)
