"""What several groups of commands need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

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


def check_usecase(usecase: str) -> None:
    """Raises NotReady for one that has no folder, with those that there are."""
    from riskflow.errors import NotReady
    from riskflow.settings import settings
    from riskflow.usecase import usecase_names

    there = usecase_names(settings().usecases)
    if usecase not in there:
        raise NotReady(f"there is no use case {usecase!r}. There are: {', '.join(there) or 'none'}.")


def at_ms(text: str, option: str) -> int | None:
    """A day or an RFC 3339 time in UTC epoch ms; None where nothing was given. Raises BadParameter for the rest."""
    import polars as pl

    from batch.importer import at_ms as ms_of
    from riskflow.errors import DeclarationError

    if not text:
        return None
    try:
        return int(ms_of(pl.Series(option, [text]))[0])
    except DeclarationError:
        raise typer.BadParameter(f"{option}: {text!r} is not a time, give 2026-11-01 or 2026-11-01T10:15:00Z") from None


def span_ms(from_: str, to: str) -> tuple[int | None, int | None]:
    """`--from` and `--to`, the second of which is not included. Raises BadParameter where no time lies between."""
    first, end = at_ms(from_, "--from"), at_ms(to, "--to")
    if first is not None and end is not None and first >= end:
        raise typer.BadParameter(f"--from {from_} is not before --to {to}: no event can lie between them")
    return first, end


def user() -> str:
    """Who runs this."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"
