"""A roster: which bundles score from a position on, and what each of them is for.

    champion   decides
    canary     decides for its share of the first entity's ids
    others     challengers and shadows: they score everything and decide nothing

It stands in the head as JSON, and all outputs from that position on are made with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from riskflow.moves import CANARY, CHAMPION, Move, Standing, is_beside

OTHERS, NUMBER, FROM = "others", "number", "from"


@dataclass(frozen=True)
class Pin:
    """A bundle under an alias, as a head names it. `number` is that of the move that put it there."""

    alias: str
    version: int
    hash: str
    number: int
    share: float | None = None  # of a canary

    @classmethod
    def of(cls, move: Move) -> Pin:
        return cls(move.alias, move.version, move.bundle_hash, move.number, move.share)


@dataclass(frozen=True)
class Roster:
    """`number` is that of the registry's newest move; `whole`: nobody is left out because he is still being loaded."""

    champion: Pin
    canary: Pin | None = None
    others: tuple[Pin, ...] = ()
    number: int = 0
    whole: bool = True

    @classmethod
    def of(cls, found: Standing) -> Roster | None:
        """As the registry has it; None without a champion."""
        pins = {alias: Pin.of(move) for alias, move in found.live.items()}
        if CHAMPION not in pins:
            return None
        others = tuple(pin for alias, pin in sorted(pins.items()) if is_beside(alias))
        return cls(pins[CHAMPION], pins.get(CANARY), others, found.number)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Roster | None:
        """As a head has it; None where nothing was pinned yet. Older heads name the champion alone."""
        if CHAMPION not in stored:
            return None
        champion = Pin(CHAMPION, **stored[CHAMPION])
        canary = Pin(CANARY, **stored[CANARY]) if CANARY in stored else None
        others = tuple(Pin(**pin) for pin in stored.get(OTHERS, ()))
        return cls(champion, canary, others, stored.get(NUMBER, champion.number))

    def stored(self, position: int) -> dict[str, Any]:
        """How a head names it, from this position on."""
        out: dict[str, Any] = {CHAMPION: _bare(self.champion), FROM: position}
        if self.canary is not None:
            out[CANARY] = {**_bare(self.canary), "share": self.canary.share}
        if self.others:
            out[OTHERS] = [{"alias": pin.alias, **_bare(pin)} for pin in self.others]
        return {**out, NUMBER: self.number}

    @property
    def beside(self) -> tuple[Pin, ...]:
        """All that decisions can go on without."""
        return (*([] if self.canary is None else [self.canary]), *self.others)

    @property
    def members(self) -> tuple[Any, ...]:
        """What outputs depend on: heads with the same members are scored together."""
        return self.champion, self.canary, self.others

    def only(self, wanted: Callable[[Pin], bool]) -> Roster:
        """The champion, and of the others those that are wanted."""
        canary = self.canary if self.canary is not None and wanted(self.canary) else None
        return replace(self, canary=canary, others=tuple(pin for pin in self.others if wanted(pin)))

    def replaces(self, pinned: Roster) -> bool:
        """Whether this one shall be pinned next. One that is not whole waits, unless the registry has moved."""
        if self.number != pinned.number:
            return self.number > pinned.number
        return self.whole and self.members != pinned.members


def _bare(pin: Pin) -> dict[str, Any]:
    """Without what stands beside it."""
    return {name: value for name, value in asdict(pin).items() if name not in ("alias", "share")}
