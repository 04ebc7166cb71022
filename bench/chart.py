"""Small charts as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

OURS, OTHERS, INK, PAPER, LINE = "#c2410c", "#64748b", "#1e293b", "#ffffff", "#cbd5e1"
FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart; `note` stands behind the figure."""

    title: str
    value: float
    note: str = ""
    ours: bool = False


def bars(title: str, lines: Sequence[Bar], width: int = 860) -> str:
    """Horizontal bars from zero, each with its figure."""
    left, right, top, step = 300, 250, 46, 30
    most = max(line.value for line in lines)
    room = width - left - right
    parts = [_text(16, 26, title, size=15, bold=True)]
    for i, line in enumerate(lines):
        y = top + i * step
        length = max(1.0, room * line.value / most)
        parts.append(_text(left - 10, y + 15, line.title, anchor="end", bold=line.ours))
        parts.append(
            f"<rect x='{left}' y='{y}' width='{length:.1f}' height='20' fill='{OURS if line.ours else OTHERS}'/>"
        )
        said = f"<tspan font-weight='600'>{line.value:,.0f}</tspan>  <tspan fill='{OTHERS}'>{escape(line.note)}</tspan>"
        parts.append(f"<text x='{left + length + 8:.1f}' y='{y + 15}' {FONT} font-size='13' fill='{INK}'>{said}</text>")
    return _page(width, top + len(lines) * step + 12, parts)


def curves(title: str, charts: Sequence[tuple[str, Sequence[str], Sequence[float], str]], columns: int = 3) -> str:
    """Small charts side by side: (title, labels, values, unit) each, values from zero."""
    w, h, gap = 290, 190, 10
    rows = -(-len(charts) // columns)
    parts = [_text(16, 26, title, size=15, bold=True)]
    for i, one in enumerate(charts):
        x, y = gap + i % columns * (w + gap), 44 + i // columns * (h + gap)
        parts += _curve(x, y, w, h, *one)
    return _page(gap + columns * (w + gap), 44 + rows * (h + gap), parts)


def _curve(
    x: int, y: int, w: int, h: int, title: str, labels: Sequence[str], values: Sequence[float], unit: str
) -> list[str]:
    bottom, top, most = y + h - 34, y + 44, max(max(values), 1e-9)
    step = (w - 60) / max(1, len(values) - 1)
    points = [(x + 30 + i * step, bottom - (bottom - top) * v / most) for i, v in enumerate(values)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts = [
        _text(x + 12, y + 16, title, bold=True),
        f"<line x1='{x + 20}' y1='{bottom}' x2='{x + w - 16}' y2='{bottom}' stroke='{LINE}'/>",
        f"<polyline fill='none' stroke='{OURS}' stroke-width='2' points='{line}'/>",
    ]
    for (a, b), label, value in zip(points, labels, values, strict=True):
        parts.append(f"<circle cx='{a:.1f}' cy='{b:.1f}' r='3' fill='{OURS}'/>")
        parts.append(_text(a, b - 7, _short(value), anchor="middle", size=11))
        parts.append(_text(a, bottom + 15, label, anchor="middle", size=11, colour=OTHERS))
    parts.append(_text(x + w - 16, bottom + 30, unit, anchor="end", size=11, colour=OTHERS))
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(
    x: float, y: float, said: str, *, anchor: str = "start", size: int = 13, bold: bool = False, colour: str = INK
) -> str:
    look = f"{FONT} font-size='{size}' text-anchor='{anchor}' fill='{colour}'" + (" font-weight='600'" if bold else "")
    return f"<text x='{x:.1f}' y='{y:.1f}' {look}>{escape(said)}</text>"


def _page(width: int, height: int, parts: Sequence[str]) -> str:
    inner = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}'>\n"
        f"<rect width='{width}' height='{height}' rx='6' fill='{PAPER}'/>\n{inner}\n</svg>\n"
    )


def save(path: Path, svg: str) -> None:
    path.write_text(svg)
