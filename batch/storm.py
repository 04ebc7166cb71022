"""Storm control: how often something may be raised, kept in a file, so that a restart changes nothing.

At least a gap between two, and at most so many within 24 hours. A run that asks again, because its task was tried
again, gets the answer that it got before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batch.files import write_text
from riskflow.policy import DAY_MS


class Storm:
    """What was raised, by kind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def allows(self, kind: str, run: str, now_ms: int, gap_ms: int, per_day: int) -> bool:
        """Whether a run may raise this now; if so, it counts as raised."""
        raised = self._read()
        mine = raised.setdefault(kind, [])
        if any(one["run"] == run for one in mine):
            return True
        newest = max((one["at_ms"] for one in mine), default=None)
        lately = [one for one in mine if one["at_ms"] > now_ms - DAY_MS]
        if (newest is not None and now_ms - newest < gap_ms) or len(lately) >= per_day:
            return False
        mine.append({"run": run, "at_ms": now_ms})
        self._write({**raised, kind: mine[-100:]})
        return True

    def raised_ms(self, kind: str) -> list[int]:
        """When this was raised; the oldest of many are not known any more."""
        return [one["at_ms"] for one in self._read().get(kind, [])]

    def forget(self, kind: str, run: str) -> None:
        """What a run raised reached nobody: it does not count."""
        raised = self._read()
        self._write({**raised, kind: [one for one in raised.get(kind, []) if one["run"] != run]})

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        return json.loads(self._path.read_text()) if self._path.is_file() else {}

    def _write(self, raised: dict[str, list[dict[str, Any]]]) -> None:
        write_text(self._path, json.dumps(raised, indent=1) + "\n")
