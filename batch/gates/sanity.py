"""Made-up events whose scores people are sure of: bounds, and which of two is the riskier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from batch.gates.base import Declared, Gate, Place, Share, bounds_in_words, within
from riskflow.errors import DeclarationError

if TYPE_CHECKING:
    from batch.gates.case import Case
    from riskflow.plan import Plan


class Row(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One event. What `values` does not say is at its usual; a category is given by its word, null is missing."""

    name: str
    values: dict[str, float | str | bool | None]
    least: Share | None = None
    most: Share | None = None
    above: str = ""  # the name of a row that must score lower


class Sanity(Declared, tag="sanity"):
    rows: list[Row]

    def check(self, plan: Plan, at: Place) -> None:
        names = [row.name for row in self.rows]
        for i, row in enumerate(self.rows):
            place = at(f"rows[{i}]")
            if names.count(row.name) > 1:
                raise DeclarationError(place, f"{row.name!r} is there twice", "Rename one")
            if row.above and row.above not in names:
                raise DeclarationError(place, f"{row.above!r} is no row", f"Rows: {', '.join(names)}")
            if row.above == row.name or not (row.above or row.least is not None or row.most is not None):
                raise DeclarationError(place, "expects nothing", "Give least, most, or above: another row")
            for name, value in row.values.items():
                sanity_value(plan, name, value, at(f"rows[{i}].values.{name}"))

    def judge(self, case: Case) -> Gate:
        wanted = "; ".join(_wish(row) for row in self.rows)
        if case.bundle is None:
            return self.outcome(False, "there is no bundle", wanted)
        scores = case.scores_of({row.name: row.values for row in self.rows})
        broken = [
            f"{row.name} {scores[row.name]:.4f}" + (f", {row.above} {scores[row.above]:.4f}" if row.above else "")
            for row in self.rows
            if not _holds(row, scores)
        ]
        return self.outcome(not broken, "; ".join(broken) or f"{len(scores)} rows as expected", wanted, scores=scores)


def _holds(row: Row, scores: dict[str, float]) -> bool:
    mine = scores[row.name]
    return within(mine, row.least, row.most) and not (row.above and mine <= scores[row.above])


def _wish(row: Row) -> str:
    bounds: list[Any] = [bounds_in_words(row.least, row.most)] if (row.least, row.most) != (None, None) else []
    return f"{row.name} {', '.join([*bounds, *([f'above {row.above}'] if row.above else [])])}"


def sanity_value(plan: Plan, name: str, value: Any, at: str) -> float | str | None:
    """One value as columns hold it: a category's code, a number, a text; None is missing."""
    from riskflow.declare import CATEGORY, TEXT
    from riskflow.plan import MODEL

    node = plan.nodes.get(name)
    if node is None or node.what == MODEL:
        raise DeclarationError(at, f"{name!r} is neither a field nor a feature", "See: riskflow plan show")
    if value is None:
        return None
    if node.type.kind == CATEGORY:
        if value not in node.type.values:
            raise DeclarationError(at, f"{value!r} is no value of {name!r}", f"Values: {', '.join(node.type.values)}")
        return float(node.type.values.index(str(value)))
    if isinstance(value, str) != (node.type.kind == TEXT):
        raise DeclarationError(at, f"{value!r} is no {node.type.kind}", "Give what the field holds")
    return value if isinstance(value, str) else float(value)
