"""`riskflow models` and `riskflow keys`: what is published, which of it is live, and moving it.

What two versions differ in, where one comes from, and who was live when stands in cli/models_past.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import user
from cli.models_common import (
    Json,
    UseCase,
    figures,
    minute,
    number,
    open_registry,
    public_keys,
    report,
    shown_alias,
    table,
    version_of,
)

if TYPE_CHECKING:
    from riskflow.moves import Move
    from riskflow.registry import Registry

Why = Annotated[str, typer.Option(help="the reason, for the history")]
Who = Annotated[str, typer.Option(help="for the history; default: your user name")]
Alias = Annotated[str, typer.Option(help="champion, canary, challenger, challenger:NAME, shadow or shadow:NAME")]
Share = Annotated[
    float | None, typer.Option(min=0, max=1, help="of the customers that a canary decides for: 0.01 is one in 100")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    from cli.models_past import compare, history, lineage
    from cli.models_rules import rules

    group = typer.Typer(no_args_is_help=True, help="Published bundles: which there are, which score, and moving them.")
    group.command("list")(list_)
    for command in (show, promote, retire, rollback, rules, history, compare, lineage):
        group.command()(command)
    app.add_typer(group, name="models")
    app.command("keys")(keys)


def list_(usecase: UseCase = "card_fraud", as_json: Json = False) -> None:
    """Every published version, and where the aliases stand. --json has all that is known of each."""
    from riskflow.registry_reader import first_bundle

    registry = open_registry(usecase)
    aliases = registry.aliases()
    rows = [
        {"version": v, "aliases": [a for a, m in aliases.items() if m.version == v], **about}
        for v, about in registry.versions().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table(
        ["version", "aliases", "created, UTC", "by", "model", "AP", "precision", "recall"],
        [
            [r["version"], ", ".join(shown_alias(aliases[a]) for a in r["aliases"]) or "-", minute(r["created_at"]),
             r["who"], r["metrics"].get("candidate") or ", ".join(r["models"]) or "rules only",
             *(number(r["metrics"].get(name)) for name in ("ap", "precision", "recall"))]
            for r in rows
        ],
        f"{usecase} has no published bundle yet. {first_bundle(usecase)}",
        folds="aliases",
    )  # fmt: skip


def show(
    version: Annotated[str, typer.Argument(help="a version, or an alias such as champion")] = "champion",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """One bundle: what it is made of, and whether it may be loaded here."""
    from riskflow.bundle import Bundle

    registry = open_registry(usecase)
    raw = registry.raw(version_of(registry, version))
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
    share: Share = None,
    why: Why = "promoted by hand",
    who: Who = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Point an alias at a version. Workers swap within two seconds; nothing is lost or late.

    riskflow models promote 7 --alias shadow

    riskflow models promote 7 --alias canary --share 0.01

    riskflow models promote 7 --why "better on online payments"

    A version that becomes champion is taken off all its other aliases in the same moment.
    """
    from riskflow.moves import CANARY

    if alias == CANARY and not share:
        raise typer.BadParameter("a canary decides for a share of the customers: --share 0.01 is one in 100")
    if alias != CANARY and share is not None:
        raise typer.BadParameter(f"--share is for --alias canary: {alias} takes none")
    registry = open_registry(usecase)
    report(registry, _move(registry, alias, version, who, why, share), as_json)


def retire(
    alias: Annotated[str, typer.Argument(help="canary, challenger, challenger:NAME, shadow or shadow:NAME")],
    why: Why = "taken off by hand",
    who: Who = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Take an alias off: its bundle scores no more. Where a canary decided, the champion does."""
    from riskflow.keys import load_private_key
    from riskflow.settings import settings

    registry, key = open_registry(usecase), load_private_key(settings().keys_folder)
    report(registry, registry.retire(alias, who=who or user(), why=why, private_key=key), as_json)


def rollback(
    alias: Annotated[str, typer.Option(hidden=True)] = "champion",
    why: Why = "rolled back by hand",
    who: Who = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Point the champion at the version that it pointed at before. A canary is taken off in the same moment.

    A canary alone is taken off by `retire`; so is a shadow.
    """
    from riskflow.keys import load_private_key
    from riskflow.settings import settings

    registry, trusted = open_registry(usecase), public_keys()
    _check_loadable(registry, registry.previous(alias, trusted))
    key = load_private_key(settings().keys_folder)
    move = registry.rollback(who=who or user(), why=why, private_key=key, public_keys=trusted, alias=alias)
    report(registry, move, as_json)


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


def _move(registry: Registry, alias: str, version: int, who: str, why: str, share: float | None) -> Move:
    from riskflow.keys import load_private_key
    from riskflow.settings import settings

    private_key = load_private_key(settings().keys_folder)
    _check_loadable(registry, version)
    return registry.move(
        alias, version, who=who or user(), why=why, private_key=private_key, public_keys=public_keys(), share=share
    )


def _check_loadable(registry: Registry, version: int) -> None:
    """Raises BundleRefused for a bundle that this code cannot load: the workers would refuse it anyway."""
    from cli.common import load_plan
    from riskflow.bundle import verify

    verify(registry.raw(version), public_keys(), plan=load_plan(registry.names.usecase))


def _refusal(raw: bytes, usecase: str) -> str:
    from cli.common import load_plan
    from riskflow.bundle import verify
    from riskflow.errors import RiskflowError

    try:
        verify(raw, public_keys(), plan=load_plan(usecase))
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
        "figures": figures(bundle.metrics) or "none",
        "data": json.dumps(bundle.data),
    }
