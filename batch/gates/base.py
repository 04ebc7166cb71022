"""What a gate is: declared in pipeline.yaml with its parameters, judged on a case, its evidence kept in the verdict.

Nothing heavy is imported here or by the modules of single gates: a DAG file reads them at every parse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from riskflow.errors import DeclarationError

if TYPE_CHECKING:
    from batch.gates.case import Case
    from riskflow.plan import Plan

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Whole = Annotated[int, Meta(ge=1)]
Place = Callable[[str], str]


@dataclass(frozen=True)
class Gate:
    """One condition that was looked at: what was found, what is wanted, and the numbers behind it."""

    name: str
    passed: bool
    found: Any
    wanted: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def sentence(self) -> str:
        return f"{self.name}: found {self.found}, wanted {self.wanted}"


class Declared(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, tag_field="gate"):
    """A gate as pipeline.yaml declares it. Subclasses give their word by `tag` and their parameters as fields."""

    @property
    def name(self) -> str:
        """How a verdict and a refusal call it."""
        return str(self.__struct_config__.tag)

    def check(self, plan: Plan, at: Place) -> None:
        """Raises DeclarationError where its parameters do not fit the plan. at: file and line of a parameter."""

    def judge(self, case: Case) -> Gate:
        raise NotImplementedError

    def outcome(self, passed: bool, found: Any, wanted: str, **evidence: Any) -> Gate:
        return Gate(self.name, bool(passed), found, wanted, evidence)


def bounds_in_words(least: float | None, most: float | None) -> str:
    """`at least 5`, `at most 0.2`, `0.01 to 0.2`, or `anything`."""
    if least is not None and most is not None:
        return f"{number(least)} to {number(most)}"
    if least is None and most is None:
        return "anything"
    return f"at least {number(least)}" if least is not None else f"at most {number(most)}"


def within(value: float, least: float | None, most: float | None) -> bool:
    """Whether a value lies in [least, most]; a NaN never does where there is a bound."""
    return (least is None or value >= least) and (most is None or value <= most)


def number(value: float | None) -> str:
    """Whole numbers without a power of ten, others as short as they are.

    >>> number(500000.0), number(0.0002), number(1e-05)
    ('500000', '0.0002', '1e-05')
    """
    return f"{value:.0f}" if value is not None and value == round(value) else f"{value:g}"


def need_bound(least: float | None, most: float | None, at: str) -> None:
    if least is None and most is None:
        raise DeclarationError(at, "has no bound", "Give least or most")
    if least is not None and most is not None and least > most:
        raise DeclarationError(at, f"wants at least {number(least)} and at most {number(most)}", "Swap them")


def need_fields(plan: Plan, names: list[str], at: str) -> None:
    """Every name must be a field of events that makes groups."""
    from riskflow.declare import NUMBER

    groups = sorted(n for n, kind in plan.scored.types.items() if kind.kind != NUMBER)
    for name in names:
        if name not in groups:
            raise DeclarationError(at, f"{name!r} is no field with groups", f"Fields with groups: {groups or 'none'}")
