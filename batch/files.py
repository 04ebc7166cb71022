"""Files that appear whole: written beside their place, and put there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`: it gets there when the block ends, and never when the block raises.

    Processes that write the same file at once do not meet: each has a place of its own, and the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # else a power failure may leave the name without the content
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The text as a file that is whole from the moment it is there."""
    with whole(path) as beside:
        beside.write_text(text)
