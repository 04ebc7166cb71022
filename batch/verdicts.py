"""Verdicts of races, kept in `<home>/races/<use case>/`: what was judged once is not judged again.

Named by the moves of champion and challengers: the same field gets the same answer for good. And a challenger that was
judged, and races again in another field, races on later events: else one that lost among several could be tried once
more on the same events, alone and with more of alpha.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.files import write_text
from riskflow.moves import Move

if TYPE_CHECKING:  # who only reads what was judged needs nothing that trains
    from batch.run import Run

Verdict = dict[str, Any]


def verdict_path(run: Run, champion: Move, challengers: Sequence[Move]) -> Path:
    """Numbers for people; in an emptied Redis they begin anew, so the moves' signatures tell them apart."""
    field = [champion, *sorted(challengers, key=lambda move: move.number)]
    numbers = "-".join(str(move.number) for move in field)
    moves = hashlib.sha256("".join(move.signature for move in field).encode()).hexdigest()
    return _folder(run) / f"race-{numbers}-{moves[:12]}.json"


def read_verdict(path: Path) -> Verdict | None:
    return dict(json.loads(path.read_text())) if path.is_file() else None


def write_verdict(path: Path, verdict: Verdict) -> None:
    """In one step: a run that is killed leaves none, or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(verdict, indent=2) + "\n")


def judged_until_ms(run: Run, versions: Collection[int]) -> int:
    """Events before this were in a race that judged one of these versions; 0: none was ever judged."""
    kept = [dict(json.loads(path.read_text()))["evidence"] for path in _folder(run).glob("race-*.json")]
    mine = (e for e in kept if any(standing["version"] in versions for standing in e["standings"]))
    return max((evidence["last_ms"] for evidence in mine), default=0)


def races_of(home: Path, usecase: str, version: int, bundle_hash: str) -> list[dict[str, Any]]:
    """What each race found of a version that was judged in it, in order of time; empty where this home has none.

    bundle_hash: in an emptied Redis versions begin anew, and the races of the one before were another bundle's.
    """
    found = []
    for path in (home / "races" / usecase).glob("race-*.json"):
        evidence = json.loads(path.read_text())["evidence"]
        if evidence.get("bundles", {}).get(str(version), bundle_hash) != bundle_hash:
            continue
        about = {name: evidence[name] for name in ("rows", "frauds", "first_ms", "last_ms")}
        about |= {"file": path.name, "against": evidence["champion"]}
        found += [{**about, **standing} for standing in evidence["standings"] if standing["version"] == version]
    return sorted(found, key=lambda race: (race["last_ms"], race["file"]))


def _folder(run: Run) -> Path:
    return run.conf.home / "races" / run.plan.name
