"""What the kernel is given for one entity: its window features as flat tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from riskflow import windows as kernel
from riskflow.aggregates import SUM, WIDTH, Count, Distinct
from riskflow.declare import CATEGORY, FLAG, TEXT, Mark
from riskflow.plan import DISTINCT_OF, TIME, Node, WindowRead
from riskflow.usecase import UseCase, parameters


class LayoutMaker:
    """Flat arrays for the kernel out of an entity's window features. Fields of one feed and tile size share a ring."""

    def __init__(
        self,
        usecase: UseCase,
        nodes: Mapping[str, Node],
        reads: list[WindowRead],
        marks: Mapping[str, Mark],
    ) -> None:
        self.feeds = [f.name for f in usecase.feeds]
        self.nodes, self.reads = nodes, reads
        given = [self.column(r) for r in reads if r.field not in marks]
        own = {r.name for r in reads}
        inputs = [
            i for m in marks.values() for i in parameters(m.function) if i not in own and i not in marks and i != TIME
        ]
        self.observed = (*dict.fromkeys([*given, *inputs]), *marks)
        self.rings: dict[tuple[int, int], dict[tuple[str, int], int]] = {}
        for read in sorted(reads, key=lambda r: (self.feeds.index(r.feed), kernel.tile_ms(r.window_ms))):
            cells = self.rings.setdefault((self.feeds.index(read.feed), kernel.tile_ms(read.window_ms)), {})
            for kind in self._kinds(read):
                cells.setdefault((self.column(read), kind), 0)
        for cells in self.rings.values():
            at = 1  # cell 0 is the tile's number
            for key in sorted(cells):
                cells[key] = at
                at += WIDTH[key[1]]

    def description(self) -> str:
        """What decides whether a packed record can still be read, and says the same."""
        rings = [(ring, self._length(ring), sorted(cells.items())) for ring, cells in self.rings.items()]
        fields = {r.field for r in self.reads if r.field in self.nodes}
        prints = sorted((f, self.nodes[f].fingerprint) for f in fields)
        return repr((kernel.VERSION, rings, prints, kernel.TILES_MS, kernel.GRACE_DAYS))

    def layout(self, keeps_ids: bool) -> kernel.Layout:
        """The tables; keeps_ids for the first entity, which knows duplicates."""
        rings: list[tuple[int, ...]] = []
        ops: list[tuple[int, ...]] = []
        spans: list[tuple[int, ...]] = []
        results: list[tuple[int, ...]] = []
        for ring, cells in self.rings.items():
            mine = [(j, r) for j, r in enumerate(self.reads) if self._ring(r) == ring]
            lengths = sorted({r.window_ms for _, r in mine})
            first_op, first_span = len(ops), len(spans)
            for (column, kind), at in sorted(cells.items(), key=lambda c: c[1]):
                ops.append((kind, at, self.observed.index(column), first_span + self._spans(column, kind, mine)))
            for ms in lengths:
                first = len(results)
                results += [self._result(cells, j, r) for j, r in mine if r.window_ms == ms]
                spans.append((ms // ring[1], ms % ring[1], first, len(results)))
            rings.append(
                (*ring, self._length(ring), _width(cells), first_op, len(ops), first_span, len(spans)),
            )
        return kernel.Layout(_table(rings, 8), _table(ops, 4), _table(spans, 4), _table(results, 3), keeps_ids)

    def _spans(self, column: str, kind: int, mine: list[tuple[int, WindowRead]]) -> int:
        """How many of the ring's windows need these cells: up to the longest that does."""
        longest = max(r.window_ms for _, r in mine if self.column(r) == column and kind in self._kinds(r))
        return len({r.window_ms for _, r in mine if r.window_ms <= longest})

    def _ring(self, read: WindowRead) -> tuple[int, int]:
        return self.feeds.index(read.feed), kernel.tile_ms(read.window_ms)

    def _length(self, ring: tuple[int, int]) -> int:
        return kernel.ring_length(max(r.window_ms for r in self.reads if self._ring(r) == ring))

    def _result(self, cells: dict[tuple[str, int], int], column: int, read: WindowRead) -> tuple[int, int, int]:
        return read.aggregate.result_kind, cells[self.column(read), self._kinds(read)[0]], column

    def column(self, read: WindowRead) -> str:
        """The row of `observed` that a window reads: text and categories are counted by their hash."""
        hashed = read.field not in self.nodes or self.nodes[read.field].type.kind in (TEXT, CATEGORY)
        return DISTINCT_OF + read.field if hashed and isinstance(read.aggregate, Distinct) else read.field

    def _kinds(self, read: WindowRead) -> tuple[int, ...]:
        flag = read.field in self.nodes and self.nodes[read.field].type.kind == FLAG
        if isinstance(read.aggregate, Count) and flag:
            return (SUM,)
        return read.aggregate.kinds


def _width(cells: Mapping[tuple[str, int], int]) -> int:
    return 1 + sum(WIDTH[kind] for _, kind in cells)


def _table(rows: list[tuple[int, ...]], columns: int) -> kernel.I8:
    return np.array(rows, np.int64).reshape(-1, columns)
