"""How right forecasts were: what a backtest had foretold of a bundle, beside what it then said and decided.

Foretold: the newest backtest under the bundle's own policy that was kept of archived events before the bundle spoke.
Shadow: what it said while others decided. Shown: its own decisions. What is said of a day is of all events of it, as
foretold, also where a canary decided a share of them. `flipped_share` is how many decisions would have been others: in
the forecast and as shadow those of whom decided then, shown its own, had its parent gone on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch.backtest import OF_BUNDLE, About, Backtest, backtest
from batch.files import write_text
from batch.forecasts import FOLDER, Summary, error, kept
from batch.past import ACTION, BUNDLE, SCORE, UNDECIDED, past
from batch.read_only import Shelf
from batch.replay import Progress
from batch.run import Run
from batch.shadow_scores import read_shadow_scores
from batch.tally import Tally, tally
from riskflow.bundle import Bundle
from riskflow.columns import Columns, take
from riskflow.errors import BundleRefused, NotReady
from riskflow.evaluate import ID, TIME
from riskflow.moves import CHAMPION
from riskflow.policy import ACTIONS

ERRORS = "errors"
PER_DAY = "_per_day"


def forecast_error(run: Run, shelf: Shelf, bundle: Bundle, tell: Progress | None = None) -> Summary:
    """Each figure as foretold, as shadow and as shown, and the difference; kept for the model's card.

    Raises NotReady where nothing was foretold, or it has said nothing yet that is archived.
    """
    if not _own_forecasts(run, bundle):
        raise NotReady(
            f"no backtest of bundle {bundle.version} of {run.plan.name} was kept. Make one before it scores: "
            f"riskflow backtest {run.plan.name} --bundle ..."
        )
    columns = past(run, [], {}, shelf.needs, tell=tell).columns
    sides = {"shadow": shadowed(run, columns, bundle), "shown": shown(run, shelf, columns, bundle, tell)}
    began_ms = min((side["from_ms"] for side in sides.values() if side), default=None)
    if began_ms is None:
        raise NotReady(
            f"no event that bundle {bundle.version} has scored is archived. Run `riskflow archive {run.plan.name}`"
        )
    told = foretold(run, bundle, began_ms)
    if told is None:
        raise NotReady(
            f"the backtests kept of bundle {bundle.version} of {run.plan.name} are of events after it began to score. "
            f"A forecast ends before: riskflow backtest {run.plan.name} --bundle {bundle.version} "
            f"--to {_time(began_ms)}"
        )
    spans = {name: side and {n: side[n] for n in ("from_ms", "to_ms", "events")} for name, side in
             {"forecast": told, **sides}.items()}  # fmt: skip
    out = {"usecase": run.plan.name, "bundle": bundle.version, **spans, "figures": error(told, **sides)}
    path = _path(run, bundle)
    write_text(path, json.dumps(out, indent=2) + "\n")
    return {**out, "kept": str(path)}


def kept_error(run: Run, bundle: Bundle) -> Mapping[str, Any] | None:
    """What was found last; None where nobody has asked."""
    path = _path(run, bundle)
    return dict(json.loads(path.read_text())) if path.is_file() else None


def foretold(run: Run, bundle: Bundle, began_ms: int) -> Summary | None:
    """The newest forecast of what is this bundle but for its version, made of events before it said anything."""
    before = [f for f in _own_forecasts(run, bundle) if f["to_ms"] is not None and f["to_ms"] < began_ms]
    return before[-1] if before else None


def _own_forecasts(run: Run, bundle: Bundle) -> list[Summary]:
    found = kept(run.conf.lake_folder, run.plan.name)
    own = [f for f in found if f["policy"] == OF_BUNDLE and not f.get("from_files")]
    return [f for f in own if f.get("made_of") == bundle.made_of]


def shown(run: Run, shelf: Shelf, columns: Columns, bundle: Bundle, tell: Progress | None = None) -> Summary | None:
    """The summary of what a bundle has decided itself of these events; None where that is nothing."""
    mine = np.flatnonzero(np.asarray(columns[BUNDLE]) == bundle.version)
    if not len(mine):
        return None
    decided = take(columns, mine)
    counted = tally(run.plan, decided, decided[SCORE], decided[ACTION])
    return _summary(run, columns, bundle, counted, _flips(run, shelf, bundle, counted, tell))


def shadowed(run: Run, columns: Columns, bundle: Bundle) -> Summary | None:
    """The summary of what a bundle has said of these events while others decided; None where that is nothing."""
    said = read_shadow_scores(run.plan, run.names, run.conf.lake_folder)
    said = said.filter(
        (pl.col("bundle") == bundle.version) & (pl.col("alias") != CHAMPION) & pl.col("score").is_not_null()
    )
    ids: Any = columns[ID]
    places = pl.DataFrame({"event_id": ids.strings()}).with_row_index("place")
    found = places.join(said.unique("event_id", keep="first", maintain_order=True), on="event_id").sort("place")
    if not len(found):
        return None
    codes = {name: code for code, name in enumerate(ACTIONS)}
    action = found["action"].replace_strict(codes, return_dtype=pl.Int8).to_numpy()
    counted = tally(
        run.plan, take(columns, found["place"].to_numpy().astype(np.int64)), found["score"].to_numpy(), action
    )
    flipped = float(np.mean((found["action"] != found["decided_action"]).to_numpy()))
    return _summary(run, columns, bundle, counted, flipped)


def _summary(run: Run, columns: Columns, bundle: Bundle, counted: Tally, flipped: float | None) -> Summary:
    """What was counted, days scaled to all events that were decided in them."""
    about = Backtest(_about(run, bundle), counted).summary()
    share = counted.events.total() / _events_between(columns, counted)
    daily = {name: rate / share for name, rate in about["figures"].items() if name.endswith(PER_DAY)}
    return {**about, "figures": {**about["figures"], **daily}, "share": share, "flipped_share": flipped}


def _events_between(columns: Columns, counted: Tally) -> int:
    """All events that were decided while the bundle decided any."""
    at_ms, decided = np.asarray(columns[TIME]), np.asarray(columns[ACTION]) != UNDECIDED
    return int((decided & (at_ms >= counted.first_ms) & (at_ms <= counted.last_ms)).sum())


def _flips(run: Run, shelf: Shelf, bundle: Bundle, decided: Tally, tell: Progress | None) -> float | None:
    """How many of its decisions the bundle before it would have taken otherwise."""
    if bundle.parent is None or decided.first_ms is None or decided.last_ms is None:
        return None
    try:
        before = shelf.bundle(str(bundle.parent))
    except (BundleRefused, NotReady):
        return None
    span = {"from_ms": decided.first_ms, "to_ms": decided.last_ms + 1}
    cells = backtest(run, before, shelf.needs, tell=tell, **span).tally.events
    mine = {cell: n for cell, n in cells.items() if cell.live_bundle == bundle.version}
    flipped = sum(n for cell, n in mine.items() if cell.live != cell.action)
    return flipped / max(sum(mine.values()), 1)


def _about(run: Run, bundle: Bundle) -> About:
    policy = bundle.policy
    return About(
        run.plan.name, bundle.version, bundle.content_hash, bool(bundle.signature), policy["review"], policy["decline"],
        OF_BUNDLE, "as decided", made_of=bundle.made_of,
    )  # fmt: skip


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _path(run: Run, bundle: Bundle) -> Path:
    return run.conf.lake_folder / FOLDER / run.plan.name / ERRORS / f"{bundle.version}-{bundle.content_hash[:12]}.json"
