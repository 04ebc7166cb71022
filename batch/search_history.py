"""The history of a search: every trial in Parquet, what was decided in JSON, and a picture of both.

search/history.parquet     a row for each trial
search/found.json          what was decided for each layer
search/history.svg         the best value over trials, and how much each parameter matters
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from batch.search import Found

HISTORY, FOUND, PICTURE = "history.parquet", "found.json", "history.svg"
MOST_BARS = 16
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
        for number, one in enumerate(tried):
            _draw_course(left, one, f"C{number % 10}")
        left.set(xlabel="trial", ylabel="average precision, mean over parts", title="Best so far")
        if tried:
            left.legend(fontsize=8, frameon=False)
        _draw_importance(right, tried)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_course(axes: Any, one: Found, colour: str) -> None:
    known = [(t.number, t.value) for t in one.trials if t.value is not None]
    if not known:
        return
    numbers, values = zip(*known, strict=True)
    axes.plot(numbers, values, ".", color=colour, alpha=0.5, markersize=5)
    label = f"{one.layer}: {one.candidate}" + (" (taken)" if one.parameters else "")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color=colour, label=label)


def _draw_importance(axes: Any, tried: Sequence[Found]) -> None:
    bars: list[tuple[str, float, str]] = [
        (f"{one.layer}: {name}", share, f"C{number % 10}")
        for number, one in enumerate(tried)
        for name, share in _largest(one.importance)
    ][:MOST_BARS][::-1]
    if bars:
        names, shares, colours = zip(*bars, strict=True)
        places = np.arange(len(bars))
        axes.barh(places, shares, color=colours)
        axes.set_yticks(places, names)
    axes.set(title="Importance of parameters", xlabel="share of what differs between trials", xlim=(0, 1))


def _largest(importance: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(importance.items(), key=lambda item: -item[1])


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    temporary.replace(path)
