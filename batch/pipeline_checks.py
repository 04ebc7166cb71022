"""The section `checks` of pipeline.yaml: what data must look like before anything is learned from it.

A range that is given replaces the default one whole: `label_rate: {most: 0.3}` has no lower end.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from batch.gates.base import Place, bounds_in_words, need_bound, within
from riskflow.errors import DeclarationError

MIXED_UP = ("reused_ids", "early_labels")
Share = Annotated[float, Meta(ge=0, le=1)]


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """From least to most, both included; an end that is left out is open."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        return within(value, self.least, self.most)

    @property
    def words(self) -> str:
        return bounds_in_words(self.least, self.most)


class FieldCheck(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One field of events."""

    least: float | None = None
    most: float | None = None
    outside: Share = 0.0  # the share of known values that may lie outside of least to most
    missing: Share | None = None  # at most; left out: as `missing` says for all fields
    drift: float | None = None  # at most; left out: as `drift` says for all fields


class Checks(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Each with the range that is accepted. What compares with the last training set holds where there is none."""

    schema: bool = True  # the newest archived rows have every declared field, with its type
    rows: Range = Range(least=2_000)
    frauds: Range = Range(least=20)  # in the validation span as well
    label_rate: Range = Range(least=0.0002, most=0.2)
    unheard: Range = Range(most=10)  # frauds, at the usual rate, among events to learn from since the newest label
    missing: Range = Range(most=0.995)  # share, of each field that events must have and of each input of a model
    volume: Range = Range(least=0.1, most=10.0)  # events a day, as a multiple of the last training set's
    drift: Range = Range(most=2.0)  # PSI of each field against the last training set
    reused_ids: Range = Range(most=0.001)  # share of event ids that stand for two events: batch/mix_ups.py
    early_labels: Range = Range(most=0.001)  # share of labels that became known before their event happened
    fields: dict[str, FieldCheck] = {}

    def check(self, numbers: list[str], names: list[str], at: Place) -> None:
        """Raises DeclarationError for what cannot hold; numbers and names: fields that events have."""
        for name, wanted in self.fields.items():
            place = at(f"fields.{name}")
            if name not in names:
                raise DeclarationError(place, f"{name!r} is no field of events", f"Fields: {', '.join(sorted(names))}")
            if (wanted.least, wanted.most) != (None, None):
                need_bound(wanted.least, wanted.most, place)
                if name not in numbers:
                    raise DeclarationError(place, f"{name!r} is no number", "Leave out least and most")
        for name in ("rows", "frauds", "label_rate", "unheard", "missing", "volume", "drift", *MIXED_UP):
            wanted_range: Range = getattr(self, name)
            if (wanted_range.least, wanted_range.most) != (None, None):
                need_bound(wanted_range.least, wanted_range.most, at(name))
