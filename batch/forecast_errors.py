"""How right forecasts were: what a backtest had foretold of a bundle, beside what it showed once it was live.

Foretold: the newest backtest under the bundle's own policy that was kept of archived events before it went live. Shown:
its own decisions since; what is said of a day is of all events of it, as foretold, also where a canary decided a share
of them. `flipped_share` is, in the forecast, how many of the decisions of then would have been others; shown,
how many of its decisions its parent would have taken otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from batch.backtest import OF_BUNDLE, About, Backtest, backtest
from batch.files import write_text
from batch.forecasts import FOLDER, Summary, error, kept
from batch.past import ACTION, BUNDLE, SCORE, UNDECIDED, past
from batch.read_only import Shelf
from batch.replay import Progress
from batch.retrain import Run
from batch.tally import Tally, tally
from riskflow.bundle import Bundle
from riskflow.columns import Columns, take
from riskflow.errors import BundleRefused, NotReady
from riskflow.evaluate import TIME

ERRORS = "errors"
PER_DAY = "_per_day"


def forecast_error(run: Run, shelf: Shelf, bundle: Bundle, tell: Progress | None = None) -> Summary:
    """Each figure as foretold and as shown, and the difference; kept for the model's card.

    Raises NotReady where it has decided nothing yet that is archived, or nothing was foretold.
    """
    found = shown(run, shelf, bundle, tell)
    told = foretold(run, bundle, found["from_ms"])
    if told is None:
        raise NotReady(
            f"no backtest of bundle {bundle.version} of {run.plan.name} was kept before it went live. Make one before "
            f"a bundle is promoted: riskflow backtest {run.plan.name} --bundle ..."
        )
    spans = {side: {n: about[n] for n in ("from_ms", "to_ms", "events")} for side, about in
             (("forecast", told), ("shown", found))}  # fmt: skip
    out = {"usecase": run.plan.name, "bundle": bundle.version, **spans, "figures": error(told, found)}
    path = _path(run, bundle)
    write_text(path, json.dumps(out, indent=2) + "\n")
    return {**out, "kept": str(path)}


def kept_error(run: Run, bundle: Bundle) -> Mapping[str, Any] | None:
    """What was found last; None where nobody has asked."""
    path = _path(run, bundle)
    return dict(json.loads(path.read_text())) if path.is_file() else None


def foretold(run: Run, bundle: Bundle, live_ms: int) -> Summary | None:
    """The newest forecast of what is this bundle but for its version, made of events before it was live."""
    found = kept(run.conf.lake_folder, run.plan.name)
    own = [f for f in found if f["policy"] == OF_BUNDLE and not f.get("from_files")]
    mine = [f for f in own if f.get("made_of") == bundle.made_of]
    before = [f for f in mine if f["to_ms"] is not None and f["to_ms"] < live_ms]
    return before[-1] if before else None


def shown(run: Run, shelf: Shelf, bundle: Bundle, tell: Progress | None = None) -> Summary:
    """The summary of what a published bundle has decided itself; `flipped_share` against its parent, if it can be."""
    columns = past(run, [], {}, shelf.needs, tell=tell).columns
    mine = np.flatnonzero(np.asarray(columns[BUNDLE]) == bundle.version)
    if not len(mine):
        raise NotReady(
            f"no event that bundle {bundle.version} has decided is archived. Run `riskflow archive {run.plan.name}`"
        )
    decided = take(columns, mine)
    counted = tally(run.plan, decided, decided[SCORE], decided[ACTION])
    about = Backtest(_about(run, bundle), counted).summary()
    share = len(mine) / _events_between(columns, counted)
    daily = {name: rate / share for name, rate in about["figures"].items() if name.endswith(PER_DAY)}
    figures = {**about["figures"], **daily}
    return {**about, "figures": figures, "share": share, "flipped_share": _flips(run, shelf, bundle, counted, tell)}


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


def _path(run: Run, bundle: Bundle) -> Path:
    return run.conf.lake_folder / FOLDER / run.plan.name / ERRORS / f"{bundle.version}-{bundle.content_hash[:12]}.json"
