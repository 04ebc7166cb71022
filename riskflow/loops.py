"""The loop of one entity as text: its rings, windows and marks unrolled, so that the compiler sees every number.

A general loop over the layout's tables spends most of its time on reading them. What is computed stands in
riskflow.aggregates and riskflow.windows; here is only the order: forget who is dead, identify, read, mark, write.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from riskflow import aggregates, hashing, records, windows
from riskflow.aggregates import ADD, MERGE, RESULT, ZERO
from riskflow.windows import Layout

Loop = Callable[..., int]

_HEAD = """\
# Made by riskflow.loops for one entity of one plan; safe to delete.
import math

import numpy as np
from numba import njit
from riskflow.aggregates import {functions}
from riskflow.aggregates import inlined
from riskflow.windows import DAY, check_id, first_tile, forget, last_tile, tile_for


"""
_READ = """
@inlined
def read_{index}(e, t, now, place, data, bits, acc, acc_bits, reads, row):
"""
_WRITE = """
@inlined
def write_{index}(e, t, now, place, data, bits, observed, observed_bits, i):
"""
_OBSERVE = """
@njit(cache=True, error_model="numpy")
def observe(kind, at_ms, slot, kinds_read, event, content, observed, observed_bits, reads, verdict,
            place, data, bits, ids, checks, n_ids, touched, part, watermarks, acc, acc_bits, begin, end):
    late = 0
    for i in range(begin, end):
        row, e, k, t, p = i - begin, slot[i], kind[i], at_ms[i], part[i]
"""


@dataclass(frozen=True)
class MarkCall:
    """One mark in the loop: its compiled source, its inputs as expressions, the row of `observed` that it fills."""

    kind: int
    function: str
    source: str
    inputs: tuple[str, ...]
    column: int


@dataclass(frozen=True)
class _Ring:
    """One row of the layout's table of rings, with what belongs to it."""

    index: int
    rings: int
    kind: int
    tile_ms: int
    length: int
    width: int
    ops: list[list[int]]
    spans: list[list[int]]
    first_span: int

    @property
    def state(self) -> str:
        return f"e * {self.rings} + {self.index}"


def make_loop(layout: Layout, marks: Sequence[MarkCall], folder: Path) -> Loop:
    """The compiled loop. Its file is named by its content and the kernel's, so the cache can never be stale."""
    text = loop_text(layout, marks)
    kernel = "".join(Path(m.__file__ or "").read_text() for m in (hashing, aggregates, records, windows))
    name = "observe_" + hashlib.sha256((text + kernel).encode()).hexdigest()[:16]
    loop: Loop = _module(name, text, folder).observe
    return loop


def loop_text(layout: Layout, marks: Sequence[MarkCall]) -> str:
    """The source of the loop: two functions for each ring, the marks, and who calls them."""
    rings = list(_rings(layout))
    functions = ", ".join(sorted(f.__name__ for f in {*ADD, *MERGE, *RESULT}))
    parts = [_HEAD.format(functions=functions), *dict.fromkeys(m.source for m in marks)]
    for ring in rings:
        parts += [_READ.format(index=ring.index) + _block(1, _read(ring, layout))]
        parts += [_WRITE.format(index=ring.index) + _block(1, _write(ring))]
    parts += [_OBSERVE + _block(2, _observe(layout, rings, marks)) + "    return late\n"]
    return "\n".join(parts)


def _block(depth: int, lines: Iterable[str]) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in lines)


def _observe(layout: Layout, rings: Sequence[_Ring], marks: Sequence[MarkCall]) -> Iterator[str]:
    yield f"if watermarks[p] - touched[e] > {layout.live_days}:"
    yield f"    forget(e, {len(rings)}, place, n_ids)"
    if layout.keeps_ids:
        yield "verdict[i] = check_id(ids, checks, n_ids, e, event[i], content[i])"
        yield "if verdict[i] != 0:"
        yield "    continue"
    yield "watermarks[p] = max(watermarks[p], t // DAY)"
    yield "touched[e] = max(touched[e], watermarks[p])"
    for size in dict.fromkeys(r.tile_ms for r in rings):
        yield f"now_{size} = t // {size}"
    yield "if kinds_read[k]:"
    for r in rings:
        yield f"    read_{r.index}(e, t, now_{r.tile_ms}, place, data, bits, acc, acc_bits, reads, row)"
    yield "    pass"
    for m in marks:
        yield f"if k == {m.kind}:"
        yield f"    observed[{m.column}, i] = {m.function}({', '.join(m.inputs)})"
    for r in rings:
        yield f"if k == {r.kind}:"
        yield f"    late += write_{r.index}(e, t, now_{r.tile_ms}, place, data, bits, observed, observed_bits, i)"


def _rings(layout: Layout) -> Iterator[_Ring]:
    ops, spans = layout.ops.tolist(), layout.spans.tolist()
    for i, (kind, tile_ms, length, width, *bounds) in enumerate(layout.rings.tolist()):
        first_op, end_op, first_span, end_span = bounds
        mine = ops[first_op:end_op], spans[first_span:end_span]
        yield _Ring(i, len(layout.rings), kind, tile_ms, length, width, *mine, first_span)


def _read(ring: _Ring, layout: Layout) -> Iterator[str]:
    """Newest tile first; each window ends where it ends, and only what a longer one needs goes on."""
    yield f"at = last_tile(place, {ring.state}, {ring.width})"
    yield f"low = first_tile(place, {ring.state}, {ring.width})"
    yield from _zero(ring, "acc", "")
    yield "while at >= low and bits[at] > now:"
    yield f"    at -= {ring.width}"
    for s, (tiles, rest_ms, first, end) in enumerate(ring.spans, ring.first_span):
        into_tile = f" - (1 if t - now * {ring.tile_ms} < {rest_ms} else 0)" if rest_ms else ""
        yield f"oldest = now - {tiles}{into_tile}"
        yield "while at >= low and bits[at] >= oldest:"
        for kind, cell, _, needed in ring.ops:
            if s < needed:
                yield f"    {MERGE[kind].__name__}(acc, acc_bits, {cell}, data, bits, at + {cell})"
        yield f"    at -= {ring.width}"
        for kind, cell, column in layout.results[first:end].tolist():
            yield f"reads[row, {column}] = {RESULT[kind].__name__}(acc, acc_bits, {cell}, float(t))"


def _write(ring: _Ring) -> Iterator[str]:
    yield f"at, fresh = tile_for(place, {ring.state}, now, {ring.length}, {ring.width}, data, bits)"
    yield "if at < 0:"
    yield "    return 1"
    yield "if fresh:"
    for line in _zero(ring, "data", "at + "):
        yield f"    {line}"
    for column in dict.fromkeys(column for _, _, column, _ in ring.ops):
        yield f"value, value_bits = observed[{column}, i], observed_bits[{column}, i]"
        yield "if value == value:"
        for kind, cell, of_column, _ in ring.ops:
            if of_column == column:
                yield f"    {ADD[kind].__name__}(data, bits, at + {cell}, value, value_bits, float(t))"
    yield "return 0"


def _zero(ring: _Ring, cells: str, at: str) -> Iterator[str]:
    for kind, cell, _, _ in ring.ops:
        for j, value in enumerate(ZERO[kind]):
            yield f"{cells}[{at}{cell + j}] = {'np.nan' if math.isnan(value) else value}"


def _module(name: str, text: str, folder: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    path = folder / f"{name}.py"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(text)
        unfinished.replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py always has it
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
