"""The pictures of a model card, as SVG that stands in the page: no file, no script, text as text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

MODEL, FRAUD, CHANCE, MARK, INK, GRID = "#2563eb", "#c2410c", "#94a3b8", "#c2410c", "#334155", "#e2e8f0"
SIZE = (3.9, 2.9)  # inches
BARS_INCHES, BAR_INCHES = 9.8, 0.21
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.5,
    "axes.edgecolor": "#cbd5e1", "axes.labelcolor": INK, "axes.linewidth": 0.8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "xtick.color": INK, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    "legend.fontsize": 8, "lines.linewidth": 1.8, "figure.constrained_layout.use": True, "axes.titlesize": 9.5,
}  # fmt: skip


def pictures(card: Mapping[str, Any], review: float | None, decline: float | None) -> dict[str, str]:
    """Name -> SVG of everything that the evidence has. review, decline: thresholds, drawn where they belong."""
    curves = card.get("curves") or {}
    if not curves:
        return {}
    rate = card["validation"]["frauds"] / max(card["validation"]["rows"], 1)
    point = _at(curves["thresholds"], review)
    draw: dict[str, Callable[[Any], None]] = {
        "roc": lambda axes: _roc(axes, curves["roc"]),
        "precision_recall": lambda axes: _precision_recall(axes, curves["precision_recall"], rate, point),
        "gain": lambda axes: _gain(axes, curves["gain"]),
        "scores": lambda axes: _scores(axes, curves["scores"], review, decline),
        "thresholds": lambda axes: _thresholds(axes, curves["thresholds"], review),
    }
    if curves.get("calibration"):
        draw["calibration"] = lambda axes: _calibration(axes, curves["calibration"])
    if "cost" in curves["thresholds"]:
        draw["cost"] = lambda axes: _cost(axes, curves["thresholds"], review)
    return {name: figure(name, one) for name, one in draw.items()}


def bars(name: str, values: Sequence[tuple[str, float]], unit: str) -> str:
    """Horizontal bars from zero, each with its figure."""

    def draw(axes: Any) -> None:
        names, lengths = [n for n, _ in values][::-1], [v for _, v in values][::-1]
        axes.barh(range(len(names)), lengths, color=[MODEL if v >= 0 else CHANCE for v in lengths], height=0.62)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        most = max([abs(v) for v in lengths], default=1.0) or 1.0
        axes.set_xlim(min(0.0, *lengths) - 0.02 * most, most * 1.14)
        for i, value in enumerate(lengths):
            axes.text(max(value, 0) + 0.012 * most, i, f"{value:.4f}", va="center", fontsize=7.5, color=INK)

    return figure(name, draw, (BARS_INCHES, 0.55 + BAR_INCHES * len(values)))


def figure(name: str, draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """One picture. Its ids are made from its name, so that several can stand in one page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        picture = Figure(figsize=size)
        draw(picture.subplots())
        out = io.StringIO()
        picture.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _inline(out.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Without what only a file needs; as wide as its place; in the page's font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", body)
    body = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    return body.replace("<svg ", '<svg role="img" ', 1).strip()


# ---- curves ----------------------------------------------------------------------------------------------------------


def _roc(axes: Any, curve: Any) -> None:
    axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(curve["x"], curve["y"], color=MODEL)
    _unit(axes, "genuine events flagged", "frauds caught")


def _precision_recall(axes: Any, curve: Any, rate: float, point: Any) -> None:
    axes.axhline(rate, color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(curve["x"], curve["y"], color=MODEL)
    if point:
        axes.plot(point["recall"], point["precision"], "o", color=MARK, markersize=5)
        place = (point["recall"], point["precision"])
        axes.annotate("review", place, (-7, -11), textcoords="offset points", color=MARK, ha="right")
    _unit(axes, "recall", "precision")


def _gain(axes: Any, curve: Any) -> None:
    """Of events, from the highest score down: how many of the frauds are among them."""
    chance = [10 ** (-4 + i / 25) for i in range(101)]
    axes.plot(chance, chance, color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))
    pairs = [(x, y) for x, y in zip(curve["x"], curve["y"], strict=True) if x > 0]
    axes.plot([x for x, _ in pairs], [y for _, y in pairs], color=MODEL)
    axes.set_xscale("log")
    low = max(1e-4, min((x for x, _ in pairs), default=1e-3))
    axes.set_xlim(low, 1)
    axes.set_ylim(0, 1.02)
    ticks = [t for t in (0.0001, 0.001, 0.01, 0.1, 1.0) if t >= low]
    axes.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("share of events looked at")
    axes.set_ylabel("share of frauds among them")


def _calibration(axes: Any, curve: Any) -> None:
    axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(curve["predicted"], curve["found"], color=MODEL, marker="o", markersize=4)
    _unit(axes, "score", "share of frauds found")
    end = min(1.01, 1.1 * max(*curve["predicted"], *curve["found"]))
    axes.set_xlim(-0.01 * end, end)
    axes.set_ylim(-0.01 * end, end)


def _scores(axes: Any, curve: Any, review: float | None, decline: float | None) -> None:
    edges = curve["edges"]
    middles, width = [(a + b) / 2 for a, b in pairwise(edges)], (edges[1] - edges[0]) * 0.92
    axes.bar(middles, [max(n, 0.0) for n in curve["genuine"]], width, color=MODEL, alpha=0.35, label="genuine")
    axes.bar(middles, curve["fraud"], width, color=FRAUD, alpha=0.75, label="fraud")
    for threshold in (review, decline):
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel("score")
    axes.set_ylabel("events")
    axes.legend(loc="upper right")


def _thresholds(axes: Any, curve: Any, review: float | None) -> None:
    axes.plot(curve["threshold"], curve["precision"], color=MODEL, label="precision")
    axes.plot(curve["threshold"], curve["recall"], color=FRAUD, label="recall")
    if review is not None:
        axes.axvline(review, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.legend(loc="upper center", ncols=2)
    _unit(axes, "threshold", "")
    axes.set_xlim(0, max(curve["threshold"]))
    axes.set_ylim(-0.01, 1.15)


def _cost(axes: Any, curve: Any, review: float | None) -> None:
    axes.plot(curve["threshold"], curve["cost"], color=MODEL)
    if review is not None:
        axes.axvline(review, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xlim(0, max(curve["threshold"]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threshold of review")
    axes.set_ylabel("cost of the span")


def _unit(axes: Any, across: str, up: str) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.03)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def _at(curve: Any, threshold: float | None) -> dict[str, float] | None:
    """The curve's point at a threshold: the lowest one that is not below it."""
    if threshold is None:
        return None
    reached = [i for i, t in enumerate(curve["threshold"]) if t >= threshold]
    return None if not reached else {name: curve[name][reached[-1]] for name in ("recall", "precision")}
