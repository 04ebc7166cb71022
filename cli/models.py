"""`riskflow models` and `riskflow keys`: what is published, which of it is live, and moving it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from riskflow.keys import PublicKeys
    from riskflow.registry import Move, Registry

UseCase = Annotated[str, typer.Option(help="use case")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable, on stdout")]
Why = Annotated[str, typer.Option(help="the reason, for the history")]
Who = Annotated[str, typer.Option(help="for the history; default: your user name")]
Alias = Annotated[str, typer.Option(help="champion: workers read no other alias yet")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(no_args_is_help=True, help="Published bundles: list, show, promote, rollback, history.")
    for name, command in (("list", list_), ("show", show), ("promote", promote), ("rollback", rollback)):
        group.command(name)(command)
    group.command("history")(history)
    app.add_typer(group, name="models")
    app.command("keys")(keys)


def list_(usecase: UseCase = "card_fraud", as_json: Json = False) -> None:
    """Every published version, and where the aliases stand."""
    registry = _registry(usecase)
    aliases = registry.aliases()
    rows = [
        {"version": v, "aliases": [a for a, m in aliases.items() if m.version == v], **about}
        for v, about in registry.versions().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    _table(
        ["version", "aliases", "created", "by", "models", "figures", "hash"],
        [
            [r["version"], ", ".join(r["aliases"]), r["created_at"], r["who"], ", ".join(r["models"]) or "rules only",
             _figures(r["metrics"]), r["hash"][:12]]
            for r in rows
        ],
        f"{usecase} has no published bundle yet. Make one: riskflow retrain {usecase}",
    )  # fmt: skip


def show(
    version: Annotated[str, typer.Argument(help="a version, or an alias such as champion")] = "champion",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """One bundle: what it is made of, and whether it may be loaded here."""
    from riskflow.bundle import Bundle

    registry = _registry(usecase)
    raw = registry.raw(_version(registry, version))
    bundle = Bundle.from_bytes(raw)
    refused = _refusal(raw, usecase)
    if as_json:
        about = {"hash": bundle.content_hash, "key": bundle.key, "bytes": len(raw), "refused": refused}
        typer.echo(json.dumps({**bundle.manifest, **about}))
        return
    for name, value in _summary(bundle, len(raw)).items():
        typer.echo(f"{name:10} {value}")
    typer.echo(f"{'loadable':10} {'no: ' + refused if refused else 'yes'}")


def promote(
    version: int,
    alias: Alias = "champion",
    share: Annotated[float | None, typer.Option(help="share of events, for canary", hidden=True)] = None,
    why: Why = "promoted by hand",
    who: Who = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Point an alias at a version. Workers swap within two seconds; nothing is lost or late.

    riskflow models promote 7 --why "better on online payments"
    """
    _check_read_by_workers(alias)
    registry = _registry(usecase)
    _report(_move(registry, alias, version, who, why, share), as_json)


def rollback(
    alias: Alias = "champion",
    why: Why = "rolled back by hand",
    who: Who = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Point an alias at the version that it pointed at before."""
    _check_read_by_workers(alias)
    registry = _registry(usecase)
    version = registry.previous(alias, _public_keys())
    _report(_move(registry, alias, version, who, why, None), as_json)


def history(
    alias: Annotated[str | None, typer.Option(help="only this alias")] = None,
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Every move of an alias: who, when, why."""
    moves = _registry(usecase).history(alias)
    if as_json:
        typer.echo(json.dumps([vars(m) for m in moves]))
        return
    _table(
        ["move", "when", "alias", "from", "to", "who", "why"],
        [[m.number, _when(m.at_ms), m.alias, m.previous or "-", m.version, m.who, m.why] for m in moves],
        f"no alias of {usecase} has moved yet",
    )


def keys() -> None:
    """Make the signing keys, and the key of hashed ids, where there are none. Existing ones are never touched."""
    from riskflow.hashkey import make_hash_key
    from riskflow.keys import PRIVATE, PUBLIC, make_keys
    from riskflow.settings import settings

    folder = settings().keys_folder
    made = {PRIVATE: make_keys(folder), "hash.key": make_hash_key(folder)}
    for name, new in made.items():
        typer.echo(f"{'made' if new else 'kept'} {folder / name}")
    typer.echo(f"Workers need {folder / PUBLIC} only; whoever publishes reads {PRIVATE}.", err=True)


def _registry(usecase: str) -> Registry:
    import redis

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
    return Registry(client, Names(usecase, prefix=settings().topic_prefix))


def _check_read_by_workers(alias: str) -> None:
    """The registry knows more aliases than the stream does; moving one of those would look like an effect."""
    from riskflow.errors import RiskflowError
    from riskflow.registry import CHAMPION

    if alias != CHAMPION:
        raise RiskflowError(
            f"alias {alias!r} is not moved: workers score with the {CHAMPION} only, and any other alias does nothing "
            f"in the stream until a later version. Leave --alias out to move the {CHAMPION}."
        )


def _move(registry: Registry, alias: str, version: int, who: str, why: str, share: float | None) -> Move:
    """Moves the alias to a bundle that this code can load; anything else the workers would refuse anyway."""
    from cli.common import load_plan
    from riskflow.bundle import verify
    from riskflow.keys import load_private_key
    from riskflow.settings import settings

    private_key, public_keys = load_private_key(settings().keys_folder), _public_keys()
    verify(registry.raw(version), public_keys, plan=load_plan(registry.names.usecase))
    return registry.move(
        alias, version, who=who or _user(), why=why, private_key=private_key, public_keys=public_keys, share=share
    )


def _public_keys() -> PublicKeys:
    from riskflow.keys import load_public_keys
    from riskflow.settings import settings

    return load_public_keys(settings().keys_folder)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "unknown"


def _version(registry: Registry, text: str) -> int:
    from riskflow.errors import NotReady

    if text.isdigit():
        return int(text)
    move = registry.aliases().get(text)
    if move is None:
        raise NotReady(f"{text!r} is neither a version nor an alias that stands. See: riskflow models list")
    return move.version


def _refusal(raw: bytes, usecase: str) -> str:
    from cli.common import load_plan
    from riskflow.bundle import verify
    from riskflow.errors import RiskflowError

    try:
        verify(raw, _public_keys(), plan=load_plan(usecase))
    except RiskflowError as error:
        return str(error)
    return ""


def _summary(bundle: Any, size: int) -> dict[str, object]:
    policy = bundle.policy
    return {
        "version": bundle.version,
        "parent": bundle.parent or "-",
        "created": bundle.created_at,
        "code": bundle.code,
        "hash": bundle.content_hash,
        "key": bundle.key,
        "bytes": f"{size:,}",
        "models": ", ".join(f"{m['name']} ({len(m['inputs'])} inputs)" for m in bundle.models) or "none: rules only",
        "features": len(bundle.needed),
        "review": "never" if policy["review"] is None else f"from {policy['review']}",
        "decline": "never" if policy["decline"] is None else f"from {policy['decline']}",
        "rules": ", ".join(r["name"] for r in policy["rules"]) or "none",
        "figures": _figures(bundle.metrics) or "none",
        "data": json.dumps(bundle.data),
    }


def _figures(metrics: dict[str, Any]) -> str:
    return " ".join(f"{k}={v:.4g}" for k, v in metrics.items() if isinstance(v, int | float))


def _report(move: Move, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(vars(move)))
    else:
        typer.echo(f"{move.alias}: {move.previous or 'nothing'} -> {move.version} (move {move.number}, {move.who})")


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


def _table(head: list[str], rows: list[list[object]], nothing: str) -> None:
    """A table on a terminal, columns separated by tabs elsewhere."""
    import sys

    if not rows:
        typer.echo(nothing, err=True)
    elif not sys.stdout.isatty():
        for row in [head, *rows]:
            typer.echo("\t".join(str(cell) for cell in row))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*head, box=None)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        Console().print(table)
