"""What several groups of commands need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from riskflow.errors import RiskflowError

if TYPE_CHECKING:  # every command reads this: nothing heavy here
    from riskflow.plan import Plan


def load_plan(usecase: str) -> Plan:
    """The checked plan of a use case in the configured folder."""
    from riskflow.plan import Plan
    from riskflow.settings import settings
    from riskflow.usecase import load_usecase

    return Plan.of(load_usecase(usecase, settings().usecases))


def writable(path: Path) -> Path:
    """The path, its folder made; raises RiskflowError before the work, not after it, where nothing can be written."""
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise RiskflowError(f"{path} cannot be written ({error.strerror}). Name another place with --out") from None
    if new:
        path.unlink()
    return path


def at_ms(text: str, option: str) -> int | None:
    """A day or an RFC 3339 time in UTC epoch ms; None where nothing was given."""
    import polars as pl

    from batch.importer import at_ms as ms_of

    day = len(text) == len("2026-03-01")
    return int(ms_of(pl.Series(option, [f"{text}T00:00:00Z" if day else text]))[0]) if text else None


def user() -> str:
    """Who runs this."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"
