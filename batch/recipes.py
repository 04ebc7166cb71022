"""Factories of models.py: estimators out of them, their defaults, and a fingerprint of how they make one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from riskflow.errors import DeclarationError
from riskflow.sources import fingerprint, with_helpers

INPUTS = "inputs"


def make(factory: Any, inputs: Sequence[str], parameters: Mapping[str, Any] | None = None) -> Any:
    """An unfitted estimator; a factory that asks for `inputs` is told the names of its columns."""
    told = {INPUTS: list(inputs)} if INPUTS in inspect.signature(factory).parameters else {}
    return factory(**told, **(parameters or {}))


def defaults(factory: Any, names: Iterable[str]) -> dict[str, Any]:
    """What these keyword arguments of a factory are when nothing is found for them."""
    known = inspect.signature(factory).parameters
    return {name: known[name].default for name in names}


def recipe(factory: Any) -> str:
    """A hash of the factory's source and of its helpers'; empty where it cannot be read, as for a lambda."""
    try:
        return fingerprint(with_helpers(factory))
    except (DeclarationError, OSError, TypeError, AttributeError, SyntaxError):
        return ""
