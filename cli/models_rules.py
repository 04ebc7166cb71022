"""`riskflow models rules`: decisions by policy.yaml alone, on the first day or when a model has to go."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import user
from cli.models_common import Json, UseCase, open_registry, report


def rules(
    alias: Annotated[str, typer.Option(help="champion, challenger, shadow or shadow:NAME")] = "champion",
    why: Annotated[str, typer.Option(help="the reason, for the history")] = "rules alone",
    who: Annotated[str, typer.Option(help="for the history; default: your user name")] = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Publish policy.yaml's rules without a model: every score is 0, and the rules decide. No history is needed.

    riskflow models rules --usecase refunds --why "first day"
    """
    from batch.bundling import rules_alone
    from cli.common import load_plan
    from riskflow.keys import load_private_key
    from riskflow.settings import settings

    registry, key = open_registry(usecase), load_private_key(settings().keys_folder)
    stored = registry.publish(rules_alone(load_plan(usecase)), key, who=who or user(), why=why, alias=alias)
    report(registry, registry.aliases()[alias], as_json)
    typer.echo(f"version {stored.version} has no model", err=True)
