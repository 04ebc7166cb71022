"""What a risk team writes: Entity, Feed, Windows, @mark, Model. Everything else in a use case is plain functions.

Three words more are there for training: Between and OneOf for what a search may try, Transfer for a model of others.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from riskflow.aggregates import Aggregate, Count, Distinct, Last, Max, Mean, Min, Std, Sum, TimeSinceLast
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.names import checked

__all__ = [
    "Between", "Count", "Distinct", "Entity", "Feed", "Last", "Max", "Mean", "Min", "Model", "OneOf", "Std", "Sum",
    "TimeSinceLast", "Transfer", "Windows", "mark", "over",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])
NUMBER, FLAG, CATEGORY, TEXT = "number", "flag", "category", "text"


@dataclass(frozen=True)
class Entity:
    """Somebody or something that events are about; `field` is where its id stands in an event.

    The order of entities is the order of stages; the first one must be in every event. An optional entity may be
    missing: the row has NaN there. A hashed one is kept as a keyed hash everywhere behind the intake.
    """

    field: str
    optional: bool = False
    hashed: bool = False

    def __post_init__(self) -> None:
        checked(self.field, "entity")


@dataclass(frozen=True)
class FieldType:
    """How a declared field travels: number and flag as float64, category as int32 code, text as UTF-8."""

    kind: str
    optional: bool
    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, feed: str, name: str, annotation: Any) -> FieldType:
        optional, plain = _without_none(annotation)
        if plain in (float, int):
            return cls(NUMBER, optional)
        if plain is bool:
            return cls(FLAG, optional)
        if plain is str:
            return cls(TEXT, optional)
        if typing.get_origin(plain) is Literal and all(isinstance(v, str) for v in typing.get_args(plain)):
            return cls(CATEGORY, optional, typing.get_args(plain))
        raise DeclarationError(
            f"feed {feed!r}, field {name!r}",
            f"has the type {annotation!r}",
            'Use float, bool, str or Literal["a", "b"], with "| None" when it may be missing',
        )


@dataclass(frozen=True)
class Feed:
    """One kind of message, on the topic `<use case>.<name>`.

    The feed whose rows are scored is the one named first in the use case; the others update windows only.
    `about` names the field with the id of the event that a row of this feed speaks of (labels).
    `money` names the amount field; another `currency` in a message is refused unless `rates` has it.
    """

    name: str
    id: str
    at: str
    fields: Mapping[str, Any]
    about: str | None = None
    money: str | None = None
    currency: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked(self.name, "feed")
        for name in (self.id, self.at, *self.fields):
            checked(name, f"field of feed {self.name!r}")
        if self.money and self.money not in self.fields:
            raise DeclarationError(
                f"feed {self.name!r}", f"money={self.money!r} is not a field", "Name a declared field"
            )

    @property
    def types(self) -> dict[str, FieldType]:
        return {name: FieldType.of(self.name, name, annotation) for name, annotation in self.fields.items()}


class Windows:
    """Aggregates of fields over time, kept for each entity. `field=[Aggregate(), ...]`; `events` counts rows.

    Its features are named `<variable>_<field>_<aggregate>_<window>`.
    """

    def __init__(
        self, *, by: Entity, over: Sequence[str], on: Feed | None = None, **fields: Sequence[Aggregate]
    ) -> None:
        self.by, self.on = by, on
        self.over = tuple(over)
        self.fields = {name: tuple(aggregates) for name, aggregates in fields.items()}
        for window in self.over:
            duration_ms(window)
        if not self.over or not self.fields:
            raise DeclarationError(f"Windows(by={by.field})", "has no window or no field", "Name at least one of each")
        for name, aggregates in self.fields.items():
            if not aggregates or not all(isinstance(a, Aggregate) for a in aggregates):
                raise DeclarationError(
                    f"Windows(by={by.field}), field {name!r}",
                    f"is given {list(aggregates)!r}",
                    f"Write a list of aggregates, for example {name}=[Mean(), Max()]",
                )


@dataclass(frozen=True)
class Mark:
    """A scalar function that runs between read and write, row after row; windows of its entity may observe it."""

    function: Callable[..., float]
    by: Entity
    on: Feed | None


def mark(*, by: Entity, on: Feed | None = None) -> Callable[[Callable[..., Any]], Mark]:
    """Declares a mark. The function is compiled: numbers in, one number out, `math` and numpy scalars only."""
    return lambda function: Mark(function, by, on)


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; whole ones when both are. log: small ones as often as large ones."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DeclarationError(f"Between({self.low}, {self.high})", "has no room", "Give a low and a higher number")
        if self.log and self.low <= 0:
            raise DeclarationError(
                f"Between({self.low}, {self.high}, log=True)", "starts at 0 or below", "Start above 0"
            )

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int) if self.whole else isinstance(value, int | float)
        return number and not isinstance(value, bool) and self.low <= value <= self.high  # type: ignore[operator]


@dataclass(frozen=True, init=False)
class OneOf:
    """One of these values: numbers, texts, True, False or None."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)
        if len(values) < 2 or not all(v is None or isinstance(v, str | int | float) for v in values):
            raise DeclarationError(
                f"OneOf{values!r}", "is no choice", "Give two or more numbers, texts, booleans, None"
            )

    def __contains__(self, value: object) -> bool:
        return any(type(v) is type(value) and v == value for v in self.values)


Space = Mapping[str, Between | OneOf]


class Model:
    """A scikit-learn model as a node: its output (a probability) is an input of the next layer.

    `uses` names features, other models, or patterns such as "customer_activity_*". `candidates` maps a name to a
    function that makes an unfitted estimator; they race at training. `search` maps a candidate's name to what a search
    may try for its function's keyword arguments; their defaults are what counts without a search.
    """

    def __init__(
        self,
        *,
        uses: Sequence[str],
        candidates: Mapping[str, Callable[..., Any]],
        search: Mapping[str, Space] | None = None,
    ) -> None:
        self.uses = tuple(uses)
        self.candidates = dict(candidates)
        self.search = {name: dict(space) for name, space in (search or {}).items()}
        if not self.uses or not self.candidates:
            raise DeclarationError("Model", "has no inputs or no candidates", "Give uses=[...] and candidates={...}")
        for name, space in self.search.items():
            _check_space(name, space, self.candidates)


class Transfer:
    """The last output of another bundle as a node: an input of models, learned elsewhere and taken as it is.

    `usecase` names whose bundle it is, `bundle` a version or an alias there. Its models listen to features that must be
    here under the same names and with the same fingerprints; they travel in the bundles that are trained with it.
    """

    def __init__(self, usecase: str, bundle: int | str = "champion") -> None:
        self.usecase, self.bundle = checked(usecase, "use case of a transfer"), bundle


def _check_space(candidate: str, space: Space, candidates: Mapping[str, Callable[..., Any]]) -> None:
    """Each name in a search is a keyword argument of the candidate's function, with its default among the values."""
    if candidate not in candidates:
        raise DeclarationError(
            f"Model, search of {candidate!r}", "is for no candidate", f"Known: {', '.join(candidates)}"
        )
    known = inspect.signature(candidates[candidate]).parameters
    for name, values in space.items():
        who = f"Model, search of {candidate!r}, {name!r}"
        if not isinstance(values, Between | OneOf):
            raise DeclarationError(who, f"is {values!r}", "Give Between(low, high) or OneOf(a, b)")
        if name not in known or known[name].default is inspect.Parameter.empty:
            raise DeclarationError(
                who, "is no keyword argument with a default", f"Write it into the function: def ...({name}=...)"
            )
        if known[name].default not in values:
            raise DeclarationError(who, f"leaves out its default, {known[name].default!r}", "Let the range include it")


def over(*windows: str) -> Callable[[F], F]:
    """One function for several windows: `_w` at the end of its name and of its parameters becomes `_1d`, `_7d`, ..."""

    def expand(function: F) -> F:
        function.__riskflow_over__ = windows  # type: ignore[attr-defined]
        return function

    return expand


def _without_none(annotation: Any) -> tuple[bool, Any]:
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return False, annotation
    rest = [a for a in typing.get_args(annotation) if a is not type(None)]
    return True, rest[0] if len(rest) == 1 else annotation
