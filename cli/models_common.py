"""What the commands about published bundles share: the registry, keys, names and tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from riskflow.keys import PublicKeys
    from riskflow.moves import Move
    from riskflow.registry import Registry

UseCase = Annotated[str, typer.Option(help="use case")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable, on stdout")]


def open_registry(usecase: str) -> Registry:
    """The registry of a use case; raises NotReady when Redis does not answer."""
    import redis

    from cli.common import check_usecase
    from riskflow.connect import connect
    from riskflow.errors import NotReady
    from riskflow.names import Names
    from riskflow.registry import Registry
    from riskflow.settings import settings

    client = connect(settings().redis_url, socket_timeout=10, socket_connect_timeout=5)
    try:
        client.ping()
    except redis.exceptions.ConnectionError as error:
        raise NotReady(f"Redis does not answer ({error}). Start it: riskflow up") from None
    registry = Registry(client, Names(usecase, prefix=settings().topic_prefix))
    if not registry.versions():
        check_usecase(usecase)  # a registry may be looked at from where its use case is not
    return registry


def public_keys() -> PublicKeys:
    """The keys whose signatures count here."""
    from riskflow.keys import load_public_keys
    from riskflow.settings import settings

    return load_public_keys(settings().keys_folder)


def version_of(registry: Registry, text: str) -> int:
    """A version, or where an alias stands; raises NotReady where it does not."""
    from riskflow.errors import NotReady

    if text.isdigit():
        return int(text)
    move = registry.aliases().get(text)
    if move is None:
        raise NotReady(f"{text!r} is neither a version nor an alias that stands. See: riskflow models list")
    return move.version


def figures(metrics: dict[str, Any]) -> str:
    """A bundle's numbers in a line."""
    return " ".join(f"{k}={number(v)}" for k, v in metrics.items() if isinstance(v, int | float))


def number(value: float | None) -> str:
    """Counts in full, anything else with four figures; `-` for none.

    >>> number(102726), number(0.681216182201935), number(1479775640.4), number(None)
    ('102,726', '0.6812', '1,479,775,640', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def shown_alias(move: Move) -> str:
    """As a list shows it."""
    return move.alias if move.share is None else f"{move.alias} {100 * move.share:.4g} %"


def when(at_ms: int) -> str:
    """A moment in ms since 1970 as a table shows it, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def minute(rfc3339: str) -> str:
    """The same of a moment that is written in full, without seconds."""
    return rfc3339[:16].replace("T", " ")


def table(head: list[str], rows: list[list[object]], nothing: str, folds: str = "") -> None:
    """A table: on a terminal the column `folds` may break its lines, the others never; elsewhere none does."""
    import sys

    cells = [[str(cell) for cell in row] for row in rows]
    if not rows:
        typer.echo(nothing, err=True)
    elif sys.stdout.isatty():
        _for_a_terminal(head, cells, folds)
    else:
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        for row in [head, *cells]:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _for_a_terminal(head: list[str], cells: list[list[str]], folds: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for name in head:
        shown.add_column(name, no_wrap=name != folds, overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    Console().print(shown)


def report(registry: Registry, move: Move, as_json: bool) -> None:
    """The move, and on a terminal those that came with it: aliases that were taken off by it."""
    from riskflow.moves import made_with

    if as_json:
        typer.echo(json.dumps(vars(move)))
        return
    for made in made_with(move, registry.history()):
        share = "" if made.share is None else f" for {made.share:.4g} of all"
        stood, stands = (version or "nothing" for version in (made.previous, made.version))
        typer.echo(f"{made.alias}: {stood} -> {stands}{share} (move {made.number}, {made.who})")
