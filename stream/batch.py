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

    @property
    def end(self) -> int:
        """The position when they are applied."""
        return self.records[-1].offset + 1


class StageApply(Protocol):
    """What lanes need of a stage."""

    name: str
    topic: str
    internal: bool
    onward: str  # the internal topic that it sends blocks to; empty for the last one

    async def apply(self, work: Sequence[Batch]) -> None: ...
