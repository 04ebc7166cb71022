"""The job in blocks, for the bare loops: compiled windows over arrays, one block for each partition of the other key.

Nothing is kept: state is in memory only, and a block that was sent twice counts twice. It is a bound, not a system.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import orjson
from job import Model
from windows import Windows


class Job:
    """Both steps. What travels between them is a block: JSON of the names, then arrays."""

    def __init__(self, model: str, partitions: int) -> None:
        self._model, self._partitions = Model(model), partitions
        self._customers, self._terminals = Windows(), Windows()

    def customers(self, values: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """(partition, block) out of events of one partition."""
        events = [orjson.loads(value) for value in values]
        at_ms = np.array([e["occurred_at"] for e in events], np.int64)
        amount = np.array([e["amount"] for e in events])
        known = self._customers.observe([e["customer_id"] for e in events], at_ms, amount)
        where = np.array([zlib.crc32(e["terminal_id"].encode()) % self._partitions for e in events])
        for partition in np.unique(where).tolist():
            rows = np.flatnonzero(where == partition)
            names = orjson.dumps([[events[i]["event_id"], events[i]["terminal_id"]] for i in rows.tolist()])
            parts = (len(names).to_bytes(4, "big"), names, at_ms[rows], amount[rows], known[rows])
            yield partition, b"".join(p if isinstance(p, bytes) else p.tobytes() for p in parts)

    def terminals(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, score) of each row of a block."""
        end = 4 + int.from_bytes(block[:4], "big")
        ids, terminals = zip(*orjson.loads(block[4:end]), strict=True)
        n = len(ids)
        at_ms = np.frombuffer(block, np.int64, n, end)
        amount = np.frombuffer(block, np.float64, n, end + 8 * n)
        known = np.frombuffer(block, np.float32, 8 * n, end + 16 * n).reshape(n, 8)
        rows = np.column_stack([amount.astype(np.float32), known, self._terminals.observe(terminals, at_ms, amount)])
        for name, score in zip(ids, self._model.scores(rows).tolist(), strict=True):
            yield name.encode(), b'{"event_id":"%s","score":%.9g}' % (name.encode(), score)
