"""`riskflow report`: the model card of a bundle, one HTML file that opens by double click."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(report)


def report(
    version: Annotated[str, typer.Argument(help="a version, an alias such as champion, or a file")] = "champion",
    usecase: Annotated[str, typer.Option(help="use case")] = "card_fraud",
    out: Annotated[Path | None, typer.Option(help="default: card-<use case>-<version>.html")] = None,
    store: Annotated[bool, typer.Option("--store", help="also where serving shows it")] = False,
    as_json: Json = False,
) -> None:
    """Write the model card of a bundle: data, curves, features, segments, gates, drift, lineage.

    riskflow report champion --out card.html
    """
    from dataclasses import replace

    from batch.card.page import card
    from batch.card.page import store as store_card
    from cli.backtest import context
    from cli.common import writable

    run, shelf = context(usecase)
    bundle = shelf.bundle(version)
    published = not Path(version).is_file()
    if store and not published:
        raise typer.BadParameter("--store: serving shows published versions only")
    run = replace(run, name=str(bundle.data.get("run", run.name)))
    name = bundle.version if published else bundle.content_hash[:12]
    out = writable(out or Path(f"card-{usecase}-{name}.html"))
    html = card(run, bundle, published=published)
    out.write_text(html, encoding="utf-8")
    if store:
        store_card(run, bundle.version, html)
    if as_json:
        print(json.dumps({"usecase": usecase, "bundle": bundle.version, "out": str(out), "bytes": len(html.encode())}))
    else:
        print(f"model card of {usecase} {name}: {out}")
