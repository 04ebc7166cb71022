"""Reasons in words for what was not approved.

The method is occlusion to the usual: the inputs of a flagged row are replaced, one family after another, by their
median over genuine rows, and the row goes through all layers again. The families whose replacement lowers the output of
the last model most are the reasons. Outputs before calibration are compared, because a calibration has flat steps.

- A family is all inputs with one reason text in the policy; else an aggregate over all its windows; else one input.
- A family counts when the odds of fraud are at least 1.1 times what they are without it (odds, because a probability
  near 1 hardly moves); equal ones keep the order of the inputs.
- What the text tells is the member furthest from its usual, seen relative to it.
- Rules that held come first. At most three reasons; when no family alone explains a row, that is said.

The cost is bounded: one call of each model for up to 256 flagged rows times the families that reach the model, directly
or through a lower layer. Rows do not see each other, so reasons do not depend on how a block was cut either.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from riskflow.bundle import Bundle
from riskflow.columns import F8, Columns, Text
from riskflow.declare import CATEGORY, FLAG, TEXT, FieldType
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.plan import Plan

if TYPE_CHECKING:
    from riskflow.policy import Decider

MOST = 3
ODDS = 1.1
ROWS_AT_ONCE = 256
TOGETHER = "several small signs together"
UNKNOWN = "not known"


class Runs(Protocol):
    """What a layer of models offers."""

    name: str
    inputs: tuple[str, ...]

    def run(self, values: Mapping[str, Any], rows: int) -> F8: ...


@dataclass(frozen=True)
class Family:
    """Inputs that are explained together, and the words for them."""

    members: tuple[str, ...]
    text: str  # with {value} and {usual}; empty: made from the member's name


class Explainer:
    """Finds reasons for the rows of one bundle."""

    def __init__(self, plan: Plan, bundle: Bundle, layers: Sequence[Runs], decider: Decider) -> None:
        self.layers = layers
        models = {layer.name for layer in layers}
        inputs = tuple(dict.fromkeys(i for layer in layers for i in layer.inputs if i not in models))
        windows = {r.name for stage in plan.stages for r in stage.reads}
        self.families = families_of(inputs, windows, bundle.reasons)
        self.reference = {name: _number(bundle.reference.get(name)) for name in inputs}
        self.types = {name: plan.nodes[name].type for name in inputs}
        self.rule_texts = [rule.reason or f"rule {words(rule.name)}" for rule in decider.rules]

    def reasons(
        self, values: Mapping[str, Any], texts: Columns, outputs: Mapping[str, F8], hits: NDArray[np.bool_]
    ) -> list[list[str]]:
        """Up to three reasons for each row. values: model inputs; outputs: each model's; hits: rules by rows."""
        rows = hits.shape[1]
        found = [[t for t, hit in zip(self.rule_texts, hits[:, i], strict=True) if hit][:MOST] for i in range(rows)]
        for start in range(0, rows if self.layers else 0, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            mine = {name: column[part] for name, column in values.items()}
            ranked = self._ranked(mine, {name: o[part] for name, o in outputs.items()})
            for i, families in enumerate(ranked, start):
                told = [self._tell(self.families[f], values, texts, i) for f in families]
                found[i] = [*found[i], *told][:MOST] or [TOGETHER]
        return found

    def _ranked(self, values: Mapping[str, Any], outputs: Mapping[str, F8]) -> list[list[int]]:
        """For each row the families that raised its output, the strongest first."""
        own = outputs[self.layers[-1].name][:, None]
        without = occluded(self.layers, values, outputs, self.families, self.reference).T
        counts = own * (1 - without) > ODDS * without * (1 - own)  # odds compared without dividing by zero
        order = np.argsort(without, axis=1, kind="stable")[:, :MOST]
        return [[int(f) for f in order[i] if counts[i, f]] for i in range(len(own))]

    def _tell(self, family: Family, values: Mapping[str, Any], texts: Columns, row: int) -> str:
        found = {name: float(values[name][row]) for name in family.members}
        name = max(family.members, key=lambda n: _distance(found[n], self.reference[n]))
        kind = self.types[name]
        shown = _show_text(texts[name], row) if kind.kind == TEXT else show(found[name], kind)
        usual = UNKNOWN if kind.kind == TEXT else show(self.reference[name], kind)
        text = family.text if family.text and shown != UNKNOWN else f"{words(name)} is {{value}}, usually {{usual}}"
        return text.format(value=shown, usual=usual)


def families_of(inputs: Sequence[str], windows: set[str], reasons: Mapping[str, str]) -> list[Family]:
    """Inputs grouped by reason text, the windows of one aggregate together where there is no text."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in inputs:
        text = next((text for pattern, text in reasons.items() if fnmatch.fnmatchcase(name, pattern)), "")
        rest = name.rpartition("_")[0] if name in windows else name
        groups.setdefault(("text", text) if text else ("name", rest), []).append(name)
    return [Family(tuple(members), key if kind == "text" else "") for (kind, key), members in groups.items()]


def occluded(
    layers: Sequence[Runs],
    values: Mapping[str, Any],
    outputs: Mapping[str, F8],
    families: Sequence[Family],
    reference: Mapping[str, float],
) -> F8:
    """The last model's output with each family at its usual: one row for each family, one column for each event."""
    rows = len(next(iter(outputs.values())))
    all_outputs: dict[str, F8] = {}
    reached: dict[str, set[int]] = {}
    for layer in layers:
        reached[layer.name] = _reached(layer, families, reached)
        touched = np.array(sorted(reached[layer.name]), np.int64)
        result = np.tile(outputs[layer.name], (len(families), 1))
        inputs = {i: _blocks(i, touched, values, all_outputs, families, reference) for i in layer.inputs}
        if len(touched):
            result[touched] = layer.run(inputs, rows * len(touched)).reshape(len(touched), rows)
        all_outputs[layer.name] = result
    return all_outputs[layers[-1].name]


def _reached(layer: Runs, families: Sequence[Family], below: Mapping[str, set[int]]) -> set[int]:
    """The families that change this layer's inputs, themselves or through a lower layer."""
    own = {j for j, family in enumerate(families) if not set(family.members).isdisjoint(layer.inputs)}
    return own.union(*(below[i] for i in layer.inputs if i in below))


def _blocks(
    name: str,
    touched: NDArray[np.int64],
    values: Mapping[str, Any],
    outputs: Mapping[str, F8],
    families: Sequence[Family],
    reference: Mapping[str, float],
) -> F8:
    """One input as blocks of all rows, one block for each family; at its usual in the block of its own."""
    if name in outputs:
        return outputs[name][touched].ravel()
    blocks = np.tile(np.asarray(values[name], np.float64), (len(touched), 1))
    blocks[[name in families[j].members for j in touched]] = reference[name]
    return blocks.ravel()


# ---- words -----------------------------------------------------------------------------------------------------------


def words(name: str) -> str:
    """A readable name: `customer_activity_amount_mean_30d` -> `customer activity amount mean (30d)`.

    >>> words("customer_activity_amount_mean_30d"), words("amount_to_usual")
    ('customer activity amount mean (30d)', 'amount to usual')
    """
    head, _, last = name.rpartition("_")
    try:
        duration_ms(last)
    except DeclarationError:
        return name.replace("_", " ")
    return f"{head.replace('_', ' ')} ({last})"


def show(value: float, kind: FieldType) -> str:
    """A value as a person reads it.

    >>> [show(v, FieldType("number", True)) for v in (3.0, 12.3456, 12345.678, 0.00123, float("nan"))]
    ['3', '12.35', '12346', '0.00123', 'not known']
    """
    if np.isnan(value) or (kind.kind == CATEGORY and not 0 <= value < len(kind.values)):
        return UNKNOWN
    if kind.kind == CATEGORY:
        return kind.values[int(value)]
    if kind.kind == FLAG:
        return "yes" if value else "no"
    if abs(value) >= 1000 or value == round(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _show_text(column: Any, row: int) -> str:
    value = column.take(np.array([row])).strings()[0] if isinstance(column, Text) else None
    return UNKNOWN if value is None else value


def _distance(value: float, usual: float) -> float:
    if np.isnan(value):
        return -1.0
    return float("inf") if np.isnan(usual) else abs(value - usual) / max(abs(usual), 1.0)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
