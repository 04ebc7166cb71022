"""A gate that a team writes itself: a function of its use case."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from batch.gates.base import Declared, Gate, Place
from riskflow.errors import DeclarationError

if TYPE_CHECKING:
    from batch.gates.case import Case
    from riskflow.plan import Plan

ANSWER = {"passed", "found", "wanted"}


class Custom(Declared, tag="custom"):
    """`call: usecases.card_fraud.gates.my_gate`: called with the case, and with the parameters in `with`.

    It returns {"passed": bool, "found": ..., "wanted": "..."}, and may add "evidence": {...}; plain values all of them.
    """

    call: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*\.[A-Za-z_]\w*$")]
    with_: dict[str, Any] = msgspec.field(default_factory=dict, name="with")

    @property
    def name(self) -> str:
        return self.call.rpartition(".")[2]

    def check(self, plan: Plan, at: Place) -> None:
        self._function(at("call"))

    def judge(self, case: Case) -> Gate:
        try:
            found = self._function(self.call)(case, **self.with_)
        except Exception as error:  # somebody else's code: it refuses the bundle, and the other gates are judged
            return self.outcome(False, f"{type(error).__name__}: {error}", "an answer")
        if not isinstance(found, Mapping) or not found.keys() >= ANSWER:
            return self.outcome(False, f"an answer {found!r}", f"a mapping with {', '.join(sorted(ANSWER))}")
        return self.outcome(found["passed"], found["found"], str(found["wanted"]), **dict(found.get("evidence", {})))

    def _function(self, at: str) -> Callable[..., Any]:
        module, _, name = self.call.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise DeclarationError(at, f"{self.call!r} cannot be called ({error})", "Name module.function") from None
        if not callable(function):
            raise DeclarationError(at, f"{self.call!r} is no function", "Name module.function")
        return function  # type: ignore[no-any-return]
