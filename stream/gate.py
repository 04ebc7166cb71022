"""How far intake may go: where one generation of records ends and the next takes over, while events flow.

`riskflow switch` cuts each partition of each feed at one offset, `until`: what stands before it is scored by the old
generation, what comes from there on by the new one. Before it cuts, it holds the old heads for a moment and asks where
the logs end; whatever was taken by then, even by a worker that sleeps and sends later, stands before that end.

The new generation counts what the old one scores, so it looks at the old head before it takes anything: where it was
not cut yet, the batch stands before the cut, wherever that will be. At the cut it waits until it is let in: until then
rows of another partition may be on their way that must be known first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from stream.batch import Batch
from stream.head import GATE, Head, run_script, until_answered

log = structlog.get_logger(__name__)
LOOK_S = 0.005
SAY_S = 5.0


@dataclass(frozen=True)
class Part:
    """What may be taken of a batch now, and the rest of it."""

    batch: Batch
    held: bool = False  # another generation scores it
    rest: Batch | None = None


@dataclass(frozen=True)
class Gate:
    """What a head says of how far its partition goes."""

    until: int | None
    wait_s: float
    behind: int | None

    @classmethod
    def of(cls, said: Sequence[Any]) -> Gate:
        until, wait_ms, behind = said
        return cls(int(until) if until else None, int(wait_ms) / 1000, int(behind) if behind else None)

    @property
    def open(self) -> bool:
        return self.until is None and not self.wait_s and self.behind is None


async def parts(work: Sequence[Batch]) -> list[Part]:
    """What may be taken of each batch; waits where it must. Raises Leave when a head is not ours any more."""
    gates = await _look([b.head for b in work])
    if all(gate.open for gate in gates):
        return [Part(b) for b in work]
    return [await _part(batch) for batch in work]


async def _part(batch: Batch) -> Part:
    """Of one batch, once it is clear who scores it."""
    head, waited = batch.head, 0.0
    while True:
        [gate] = await _look([head])
        head.behind = gate.behind
        if gate.behind is not None:
            part, wait_s = _beside(batch, await _look_at(head, gate.behind))
        elif gate.wait_s:
            part, wait_s = None, gate.wait_s
        else:
            part, wait_s = _alone(batch, gate.until), 0.0
        if part is not None:
            return part
        if waited % SAY_S + wait_s > SAY_S:
            log.warning("waits where generations change", stage=head.stage, partition=head.partition,
                        fix=f"riskflow switch {head.names.usecase}")  # fmt: skip
        await asyncio.sleep(wait_s)
        waited += wait_s


def _alone(batch: Batch, until: int | None) -> Part:
    """This generation scores it, up to its end."""
    if until is None:
        return Part(batch)
    batch.head.ended = True
    if batch.head.position >= until:
        return Part(replace(batch, records=[], upto=batch.head.position))
    return Part(batch.split(until)[0])


def _beside(batch: Batch, old: Gate) -> tuple[Part | None, float]:
    """What the old generation scores is counted; or how long to wait."""
    if old.until is None:
        return (None, min(old.wait_s, LOOK_S)) if old.wait_s else (Part(batch, held=True), 0.0)
    if batch.head.position >= old.until:
        return None, LOOK_S
    before, rest = batch.split(old.until)
    return Part(before, held=True, rest=rest), 0.0


async def _look(heads: Sequence[Head]) -> list[Gate]:
    """At our own heads, as they were claimed."""
    calls = [(h.keys[:1], [h.epoch, h.position]) for h in heads]
    answers = await until_answered(lambda: run_script(heads[0].redis, GATE, calls))
    return [Gate.of(h.check(answer, "load")) for h, answer in zip(heads, answers, strict=True)]


async def _look_at(head: Head, generation: int) -> Gate:
    """At the same partition's head in another generation."""
    key = replace(head.names, generation=generation).head(head.stage, head.partition)
    [answer] = await until_answered(lambda: run_script(head.redis, GATE, [([key], ["", ""])]))
    return Gate.of(answer[1:])
