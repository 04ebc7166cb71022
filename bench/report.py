"""Tables for docs/benchmarks.md, each between two marks that name what made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from riskflow.settings import PROJECT

DOCS = PROJECT / "docs"
PAGE = DOCS / "benchmarks.md"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def put(mark: str, text: str, page: Path = PAGE) -> None:
    """Replaces what stands between `<!-- mark -->` and `<!-- /mark -->`."""
    page.write_text(replaced(page.read_text(), mark, text))


def replaced(page: str, mark: str, text: str) -> str:
    """The page with another text between the marks; raises ValueError where there is not one pair of them."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
        raise ValueError(f"the page has not one {begin} before one {end}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
