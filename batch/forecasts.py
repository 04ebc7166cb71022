"""What backtests foretold of a bundle, kept in the lake, to be held against what shadow and live show later.

    lake/_backtests/<use case>/<bundle>-<from>-<to>.json     a backtest's summary; times as 20260131T0000Z
                               <bundle>-<from>-<to>-policy-files.json     of another policy, of events from files

A bundle that is not published yet has the begin of its hash for a version. What was tried under another policy, or on
other events, foretells nothing of the bundle itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batch.backtest import OF_BUNDLE, Backtest
from batch.files import write_text

FOLDER = "_backtests"
HASH_CHARS = 12
FORETOLD = ("alerts_per_day", "reviews_per_day", "declines_per_day", "flagged.precision", "flagged.recall")

Summary = dict[str, Any]


def keep(found: Backtest, lake: Path) -> Path:
    """Writes a backtest's summary; an older one of the same bundle, span and kind is replaced."""
    about, span = found.about, (found.tally.first_ms or 0, found.tally.last_ms or 0)
    bundle = str(about.bundle) if about.published else about.content_hash[:HASH_CHARS]
    kind = [*(["policy"] if about.policy != OF_BUNDLE else []), *(["files"] if about.from_files else [])]
    path = lake / FOLDER / about.usecase / f"{'-'.join([bundle, *map(_minute, span), *kind])}.json"
    write_text(path, json.dumps(found.summary(), indent=2) + "\n")
    return path


def kept(lake: Path, usecase: str, content_hash: str | None = None) -> list[Summary]:
    """Every forecast of a use case, or of one bundle of it; the one of the latest span last."""
    found = [json.loads(path.read_text()) for path in (lake / FOLDER / usecase).glob("*.json")]
    return sorted(
        (f for f in found if content_hash in (None, f["content_hash"])), key=lambda f: (f["to_ms"], f["from_ms"])
    )


def error(
    forecast: Summary, shown: Summary | None, shadow: Summary | None = None
) -> dict[str, dict[str, float | None]]:
    """Each figure as foretold, as said in shadow and as decided later (summaries like a backtest's; None: not yet).

    `error` is of what was decided; before anything was, of what was said in shadow.
    """
    out = {}
    for name in (*FORETOLD, "flipped_share"):
        told, said, came = (_figure(side, name) for side in (forecast, shadow, shown))
        last = said if shown is None else came
        gap = last - told if told is not None and last is not None else None
        out[name] = {"forecast": told, "shadow": said, "shown": came, "error": gap}
    return out


def _figure(side: Mapping[str, Any] | None, name: str) -> float | None:
    if side is None:
        return None
    found: Any = side if name == "flipped_share" else side["figures"]
    for part in name.split("."):
        found = found[part]
    return None if found is None else float(found)


def _minute(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y%m%dT%H%MZ")
