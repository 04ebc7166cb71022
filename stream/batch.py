"""What a stage is given at once: the records that wait in one partition, with the head they are applied to."""

from __future__ import annotations

from dataclasses import dataclass

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
