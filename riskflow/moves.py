"""Moves: what an alias points at, from when on, who said so and why. Each is numbered and signed.

    champion                       decides
    canary                         decides for its share of the first entity's ids, in the champion's place
    challenger, challenger:NAME    scores everything and decides nothing; it runs for the champion's place
    shadow, shadow:NAME            the same; it is only looked at

A move's signature covers use case, alias, version, content hash and number. A reader takes a move only when the
signature is valid and the number is above the last one it took of that alias, so whoever can write to Redis can neither
point an alias at an old bundle nor repeat an old move. A move to version 0 takes the alias off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import PublicKeys, is_signed, key_id
from riskflow.names import Names

CHAMPION, CANARY, CHALLENGER, SHADOW = "champion", "canary", "challenger", "shadow"
RETIRED = 0  # as a version: the alias points at nothing
MOST_BESIDE = 8  # challengers and shadows at the same time: each scores every event
_SIGNED = b"riskflow move 1\n"
_BESIDE = re.compile(rf"(?:{CHALLENGER}|{SHADOW})(?::[a-z][a-z0-9_]{{0,62}})?")


@dataclass(frozen=True)
class Move:
    """One change of an alias. `number` counts the moves of a use case from 1; `previous` is where the alias stood."""

    usecase: str  # with the topic prefix: two installations on one Redis do not take each other's moves
    alias: str
    version: int  # 0: taken off
    bundle_hash: str
    number: int
    at_ms: int
    who: str
    why: str
    previous: int | None = None
    share: float | None = None  # of the first entity's ids, for `canary`
    key: str = ""
    signature: str = ""

    def message(self) -> bytes:
        """What the signature is over."""
        content = {k: v for k, v in asdict(self).items() if k != "signature"}
        return _SIGNED + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def signed(self, private_key: Ed25519PrivateKey) -> Move:
        named = replace(self, key=key_id(private_key.public_key()))
        return replace(named, signature=private_key.sign(named.message()).hex())

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Move:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            raise BundleRefused(f"the registry holds a move that cannot be read: {text[:80]!r}") from None


def is_challenger(alias: str) -> bool:
    """Whether who stands there races for the champion's place."""
    return alias.partition(":")[0] == CHALLENGER


def is_beside(alias: str) -> bool:
    """Whether this is an alias of a bundle that scores and decides nothing: a challenger or a shadow."""
    return _BESIDE.fullmatch(alias) is not None


def is_alias(name: str) -> bool:
    """Whether an alias may have this name."""
    return name in (CHAMPION, CANARY) or is_beside(name)


def check_name(alias: str) -> None:
    """RiskflowError for a name that no alias has."""
    if not is_alias(alias):
        raise RiskflowError(
            f"alias {alias!r} is not known. Use {CHAMPION}, {CANARY}, {CHALLENGER}, {CHALLENGER}:NAME, {SHADOW} or "
            f"{SHADOW}:NAME (a-z, 0-9 and _)"
        )


def check_alias(alias: str, share: float | None = None) -> None:
    """RiskflowError for a name that no alias has, and for a share where none belongs or none is given."""
    check_name(alias)
    if (alias == CANARY) != (share is not None) or (share is not None and not 0 < share <= 1):
        raise RiskflowError(
            f"alias {alias!r} with share {share}: a canary takes a share above 0 and up to 1, others none"
        )


def check_move(move: Move, public_keys: PublicKeys, names: Names, alias: str, last_number: int = 0) -> None:
    """BundleRefused unless this is a signed move of this alias of this use case, above the last number taken."""
    who = f"move {move.number} of {alias!r} to version {move.version}"
    if move.usecase != tag(names) or move.alias != alias:
        raise BundleRefused(f"{who} was made for {move.alias!r} of {move.usecase!r}: the entry was copied here")
    key = public_keys.get(move.key)
    if key is None:
        raise BundleRefused(f"{who} is signed with the foreign key {move.key!r}; known: {sorted(public_keys)}")
    if not is_signed(key, _unhex(move.signature), move.message()):
        raise BundleRefused(f"{who} has an invalid signature: it is not what {move.who!r} signed")
    if move.number <= last_number:
        raise BundleRefused(f"{who} is not above move {last_number}, which was taken already: an old entry came back")


# ---- where all aliases stand -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """Where every alias stands, by moves that were checked. One that is refused takes no other down."""

    moves: dict[str, Move]  # those that were taken off included
    refused: dict[str, str] = field(default_factory=dict)  # alias -> why its entry was not taken

    @property
    def live(self) -> dict[str, Move]:
        """The moves of aliases that point at a bundle."""
        return {alias: move for alias, move in self.moves.items() if move.version != RETIRED}

    @property
    def number(self) -> int:
        """Of the newest move, one that took an alias off included; 0 before the first."""
        return max((move.number for move in self.moves.values()), default=0)


def standing(
    entries: Mapping[str, bytes | str], public_keys: PublicKeys, names: Names, taken: Mapping[str, Move] | None = None
) -> Standing:
    """What the entries of a registry say. taken: the moves that this reader took before; of an entry that is refused
    the one before stays.
    """
    moves: dict[str, Move] = {}
    refused: dict[str, str] = {}
    for alias, entry in sorted(entries.items()):
        last = (taken or {}).get(alias)
        try:
            move: Move | None = Move.from_json(entry)
            if move is not None and move != last:
                check_move(move, public_keys, names, alias, last.number if last else 0)
        except BundleRefused as error:
            refused[alias] = str(error)
            move = last
        if move is not None:
            moves[alias] = move
    return Standing(moves, refused)


# ---- history ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Period:
    """A time in which an alias pointed at one bundle, in milliseconds since 1970; `to_ms` is None while it lasts."""

    move: Move
    from_ms: int
    to_ms: int | None


def periods(moves: Iterable[Move]) -> list[Period]:
    """Who was live when, by the numbers of the moves: a clock that was behind cannot undo an earlier move."""
    began: dict[str, Period] = {}
    out: list[Period] = []
    moment = 0
    for move in sorted(moves, key=lambda move: move.number):
        moment = max(moment, move.at_ms)
        before = began.pop(move.alias, None)
        if before is not None:
            out.append(replace(before, to_ms=moment))
        if move.version != RETIRED:
            began[move.alias] = Period(move, moment, None)
    return sorted([*out, *began.values()], key=lambda period: period.move.number)


def live_at(moves: Iterable[Move], at_ms: int) -> dict[str, Move]:
    """Where each alias stood at a moment."""
    there = [p for p in periods(moves) if p.from_ms <= at_ms and (p.to_ms is None or at_ms < p.to_ms)]
    return {p.move.alias: p.move for p in sorted(there, key=lambda period: period.move.alias)}


def made_with(move: Move, moves: Iterable[Move]) -> list[Move]:
    """A move, and those of the same transaction: they follow it with the same moment, person and reason."""
    said = (move.at_ms, move.who, move.why)
    follow = (m for m in moves if m.number > move.number)
    return [move, *takewhile(lambda m: (m.at_ms, m.who, m.why) == said and m.version == RETIRED, follow)]


def doubts(moves: Sequence[Move], public_keys: PublicKeys, names: Names) -> dict[int, str]:
    """Position in this history -> why its move is not what somebody signed, in this order."""
    out, last = {}, 0
    for i, move in enumerate(moves):
        try:
            check_move(move, public_keys, names, move.alias, last)
            last = move.number
        except BundleRefused as error:
            out[i] = str(error)
    return out


def previous_version(moves: Iterable[Move], alias: str) -> int:
    """Where an alias stood before: moving back to a version forgets what came after it."""
    stood: list[int] = []
    for move in moves:
        stood = stood[: stood.index(move.version)] if move.version in stood else stood
        stood = [*stood, move.version]
    if len(stood) < 2:
        raise NotReady(f"{alias} never pointed at an earlier version. See: riskflow models history")
    return stood[-2]


def tag(names: Names) -> str:
    """How a move names its use case."""
    return f"{names.prefix}{names.usecase}"


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
