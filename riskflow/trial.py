"""Calculations and marks on made-up rows, when a plan is built: what would fail while events flow fails here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from riskflow.declare import CATEGORY, FLAG
from riskflow.errors import DeclarationError
from riskflow.usecase import parameters

if TYPE_CHECKING:
    from riskflow.plan import Node, Plan

ROWS = 7
TIME = "at_ms"


def try_functions(plan: Plan) -> None:
    """Runs every calculation and mark of a plan once; raises DeclarationError for the first that cannot work."""
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        for name, function in plan.usecase.calculations.items():
            _try_calculation(name, function, [_made_up(plan.nodes[i], rng) for i in plan.nodes[name].inputs])
        for name, mark in plan.usecase.marks.items():
            columns = [_made_up(plan.nodes[i], rng) for i in parameters(mark.function)]
            for i in range(ROWS):
                _try_mark(name, mark.function, [c[i] for c in columns])


def _try_calculation(name: str, function: Callable[..., Any], columns: list[Any]) -> None:
    """One value for each row, and none that depends on the rows beside it."""
    whole = _call(name, function, columns, ROWS)
    alone = np.concatenate([_call(name, function, [c[i : i + 1] for c in columns], 1) for i in range(ROWS)])
    if not np.array_equal(whole, alone, equal_nan=True):
        raise DeclarationError(
            f"calculation {name!r}",
            "gives a row another value when other rows stand beside it",
            "Calculate row by row, without chance; sums over columns go through riskflow.columns.row_sum",
        )


def _try_mark(name: str, function: Callable[..., Any], values: list[Any]) -> None:
    who = f"mark {name!r}"
    try:
        out = function(*values)
    except (ArithmeticError, ValueError):
        return  # compiled, this is NaN or infinite
    except Exception as error:
        raise DeclarationError(
            who, f"raised {type(error).__name__}: {error} on made-up values", "It takes numbers and returns one"
        ) from error
    if not isinstance(out, bool | int | float | np.bool_ | np.integer | np.floating):
        raise DeclarationError(who, f"returned {out!r}", "Return one number, or a comparison")


def _made_up(node: Node, rng: np.random.Generator) -> Any:
    """A column as this node may have; read-only, as columns are while events flow."""
    values: Any
    if node.type.kind == CATEGORY:
        values = rng.integers(-1, max(1, len(node.type.values)), ROWS).astype(np.int32)
    elif node.name == TIME:
        values = (1_700_000_000_000 + rng.integers(0, 10**9, ROWS)).astype(np.int64)
    else:
        values = rng.integers(0, 2, ROWS).astype(np.float64) if node.type.kind == FLAG else rng.gamma(1.0, 50.0, ROWS)
        values[2] = np.nan
        values[5] = 0.0
    values.flags.writeable = False
    return values


def _call(name: str, function: Callable[..., Any], columns: list[Any], rows: int) -> Any:
    try:
        out = np.asarray(function(*columns))
    except Exception as error:
        raise DeclarationError(
            f"calculation {name!r}",
            f"raised {type(error).__name__}: {error} on made-up rows",
            "It takes read-only numpy columns of any length",
        ) from error
    if out.shape != (rows,) or out.dtype.kind not in "fiub":
        raise DeclarationError(
            f"calculation {name!r}",
            f"returned {out.dtype} of shape {out.shape} for {rows} rows",
            f"Return one number for each row: shape ({rows},)",
        )
    return out.astype(np.float64)
