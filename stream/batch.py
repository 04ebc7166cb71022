"""What a stage is given at once: the records that wait in partitions, with the heads they are applied to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stream.fetcher import Records
from stream.head import Head

Sent = dict[int, dict[str, int]]  # partition of this stage -> destination -> last position sent


@dataclass(frozen=True)
class Batch:
    """Records of one partition, in order, from the head's position on."""

    head: Head
    records: Records
    upto: int | None = None  # where the batch ends, if that is not behind its last record

    @property
    def end(self) -> int:
        """The position when they are applied."""
        return self.records[-1].offset + 1 if self.upto is None else self.upto

    def split(self, offset: int) -> tuple[Batch, Batch | None]:
        """What stands before an offset, and the rest, if there is any."""
        if self.end <= offset:
            return self, None
        before = [r for r in self.records if r.offset < offset]
        return Batch(self.head, before, offset), Batch(self.head, self.records[len(before) :], self.upto)


class StageApply(Protocol):
    """What lanes need of a stage."""

    name: str
    topic: str
    internal: bool
    onward: str  # the internal topic that it sends blocks to; empty for the last one

    async def apply(self, work: Sequence[Batch]) -> None: ...
