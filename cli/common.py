"""What several groups of commands need."""

from __future__ import annotations

import typer

from riskflow.plan import Plan


def load_plan(usecase: str) -> Plan:
    """The checked plan of a use case in the configured folder."""
    from riskflow.settings import settings
    from riskflow.usecase import load_usecase

    return Plan.of(load_usecase(usecase, settings().usecases))


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
