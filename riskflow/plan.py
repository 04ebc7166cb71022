"""The checked, ordered plan of a use case: what is computed where, from what, and the fingerprint of each feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from riskflow import windows as kernel
from riskflow.aggregates import Aggregate
from riskflow.declare import NUMBER, Entity, Feed, FieldType, Mark
from riskflow.loops import Loop, MarkCall, make_loop
from riskflow.settings import kernels_folder
from riskflow.usecase import UseCase

FIELD, WINDOW, MARK, CALCULATION, MODEL = "field", "window", "mark", "calculation", "model"
TIME = "at_ms"  # event time, known to every calculation and mark
DISTINCT_OF = "distinct "  # before a field's name in Stage.observed: hashes of its values
ANY_FEED = frozenset({"*"})
NUMBERS = FieldType(NUMBER, True)


@dataclass(frozen=True)
class Node:
    """One named value. `stage` is the first entity (by number) at which it is known; -1 for what the intake knows."""

    name: str
    what: str
    inputs: tuple[str, ...]
    stage: int
    feeds: frozenset[str]  # the feeds in whose rows it has a value
    fingerprint: str
    type: FieldType = NUMBERS


@dataclass(frozen=True)
class WindowRead:
    """One window feature: where it is read from."""

    name: str
    field: str
    aggregate: Aggregate
    window_ms: int
    feed: str


@dataclass(frozen=True)
class Stage:
    """One entity's part: what its kernel reads and marks, and the calculations that become known by it."""

    index: int
    entity: Entity
    reads: tuple[WindowRead, ...]
    marks: Mapping[str, Mark]
    observed: tuple[str, ...]  # columns handed to the kernel, marks last
    layout: kernel.Layout
    kinds_read: tuple[bool, ...]
    calculations: tuple[str, ...]
    mark_calls: tuple[MarkCall, ...]

    @cached_property
    def loop(self) -> Loop:
        """The compiled loop; compiled at first use, from the cache after."""
        return make_loop(self.layout, self.mark_calls, kernels_folder())

    @property
    def longest_ms(self) -> int:
        return max((r.window_ms for r in self.reads), default=0)


@dataclass(frozen=True)
class Plan:
    """A use case, checked. `Plan.of` is the only way to make one."""

    usecase: UseCase
    nodes: Mapping[str, Node]
    stages: tuple[Stage, ...]
    first_calculations: tuple[str, ...]  # known by the intake's columns alone
    models: tuple[str, ...]  # lowest layer first
    layout_fingerprint: str = field(default="")

    @classmethod
    def of(cls, usecase: UseCase) -> Plan:
        """Checks everything; raises DeclarationError naming who, what was found, and the fix."""
        from riskflow.builder import Builder  # which makes what stands here

        return Builder(usecase).plan()

    @property
    def name(self) -> str:
        return self.usecase.name

    @property
    def scored(self) -> Feed:
        return self.usecase.feeds[0]

    @property
    def features(self) -> tuple[str, ...]:
        """Every window, mark and calculation, in the order in which they become known."""
        return tuple(n.name for n in self.nodes.values() if n.what in (WINDOW, MARK, CALCULATION))

    @cached_property
    def fields(self) -> dict[str, FieldType]:
        """Declared fields of all feeds; one that stands in several has one type."""
        return {n.name: n.type for n in self.nodes.values() if n.what == FIELD and n.name != TIME}

    @property
    def entities(self) -> tuple[str, ...]:
        return tuple(e.field for e in self.usecase.entities)

    def kind(self, feed: str) -> int:
        """The number of a feed in the `kind` column; 0 is the scored one."""
        return [f.name for f in self.usecase.feeds].index(feed)

    def model_inputs(self, model: str) -> tuple[str, ...]:
        """Names of a model's inputs, patterns resolved, in the order of its matrix."""
        return self.nodes[model].inputs

    @property
    def final_model(self) -> str | None:
        """The model whose output is the score; None for a use case of rules."""
        return self.models[-1] if self.models else None

    def needed(self, models: tuple[str, ...] | None = None) -> dict[str, str]:
        """Features that the models use, directly or through calculations, with their fingerprints."""
        found: dict[str, str] = {}
        todo = [i for m in (self.models if models is None else models) for i in self.model_inputs(m)]
        while todo:
            node = self.nodes[todo.pop()]
            if node.name not in found and node.what != MODEL:
                found[node.name] = node.fingerprint
                todo += node.inputs
        return dict(sorted(found.items()))
