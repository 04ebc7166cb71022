"""The history of a search: every trial in Parquet, what was decided in JSON, and a picture of both.

search/history.parquet     a row for each trial
search/found.json          what was decided for each layer
search/history.svg         the best value over trials, and how much each parameter matters
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from batch.files import whole

if TYPE_CHECKING:
    from batch.search import Found

HISTORY, FOUND, PICTURE = "history.parquet", "found.json", "history.svg"
MOST_BARS = 3  # for each layer
SMALLEST_TOP = 0.005  # of the axis
_SCHEMA: dict[str, Any] = {
    "key": pl.String, "layer": pl.String, "candidate": pl.String, "trial": pl.Int64, "origin": pl.String,
    "state": pl.String, "average_precision": pl.Float64, "parts": pl.List(pl.Float64), "parameters": pl.String,
    "seconds": pl.Float64, "error": pl.String,
}  # fmt: skip


def write_history(folder: Path, found: Sequence[Found]) -> None:
    """All three files, anew; each under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / HISTORY, lambda path: history_table(found).write_parquet(path))
    said = [{"key": one.key, "layer": one.layer, **one.summary(), "importance": dict(one.importance)} for one in found]
    _replace(folder / FOUND, lambda path: path.write_text(json.dumps(said, indent=2) + "\n"))
    _replace(folder / PICTURE, lambda path: draw(found, path))


def history_table(found: Sequence[Found]) -> pl.DataFrame:
    """A row for each trial; parameters as JSON, since each layer has its own."""
    rows = [
        {
            "key": one.key, "layer": one.layer, "candidate": one.candidate, "trial": t.number, "origin": t.origin,
            "state": t.state, "average_precision": t.value, "parts": list(t.parts),
            "parameters": json.dumps(t.parameters, sort_keys=True), "seconds": t.seconds, "error": t.error,
        }
        for one in found for t in one.trials
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_SCHEMA)


def draw(found: Sequence[Found], path: Path) -> None:
    """The picture, as SVG: the same history gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    tried = [one for one in found if one.trials]
    with matplotlib.rc_context({"svg.hashsalt": "riskflow", "font.size": 9}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        best = [_draw_course(left, one, f"C{number % 10}") for number, one in enumerate(tried)]
        top = max([SMALLEST_TOP, *best])
        left.set(xlabel="trial", ylabel="average precision above the first trial", title="Best so far")
        left.set_ylim(-2 * top, 1.1 * top)  # what is far worse is left out: all would be squeezed by it
        if tried:
            left.legend(fontsize=8, loc="lower right", framealpha=0.9)
        _draw_importance(right, tried)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_course(axes: Any, one: Found, colour: str) -> float:
    """A line for the best so far and a point for each trial, above the first one's value; returns the best."""
    known = [(t.number, t.value) for t in one.trials if t.value is not None]
    if not known:
        return 0.0
    numbers, values = zip(*known, strict=True)
    gains = np.array(values) - values[0]
    axes.plot(numbers, gains, ".", color=colour, alpha=0.5, markersize=5)
    label = f"{one.layer}: {one.candidate}, {values[0]:.3f}" + (" (new ones taken)" if one.parameters else "")
    axes.step(numbers, np.maximum.accumulate(gains), where="post", color=colour, label=label)
    return float(gains.max())


def _draw_importance(axes: Any, tried: Sequence[Found]) -> None:
    bars: list[tuple[str, float, str]] = [
        (f"{one.layer}: {name}", share, f"C{number % 10}")
        for number, one in enumerate(tried)
        for name, share in sorted(one.importance.items(), key=lambda item: -item[1])[:MOST_BARS]
    ][::-1]
    if bars:
        names, shares, colours = zip(*bars, strict=True)
        places = np.arange(len(bars))
        axes.barh(places, shares, color=colours)
        axes.set_yticks(places, names)
    axes.set(title="Importance of parameters", xlabel="share of what differs between trials", xlim=(0, 1))


def _replace(path: Path, write: Any) -> None:
    with whole(path) as beside:
        write(beside)
