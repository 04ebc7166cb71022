"""`riskflow review sample`: which scored events people should look at, so that something is learned."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json, UseCase

Share = Annotated[float | None, typer.Option(min=0, max=1, help="instead of what pipeline.yaml says")]


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    group = typer.Typer(no_args_is_help=True, help="The queue of events that people look at.")
    group.command()(sample)
    app.add_typer(group, name="review")


def sample(
    usecase: UseCase = "card_fraud",
    from_: Annotated[str, typer.Option("--from", help="scores from this time on; default: where the last ended")] = "",
    to: Annotated[str, typer.Option("--to", help="before this time; default: the newest archived score")] = "",
    uncertain: Share = None,
    random: Share = None,
    send: Annotated[bool, typer.Option("--send/--no-send", help="write to the topic <use case>.review")] = True,
    as_json: Json = False,
) -> None:
    """Draw uncertain and random events from the archived scores, with odds that are kept.

    riskflow review sample card_fraud --uncertain 0.005 --random 0.002
    """
    from dataclasses import replace

    import msgspec

    from batch.review_sample import review_step
    from batch.run import Run
    from cli.common import load_plan, span_ms
    from riskflow.settings import settings

    first, end = span_ms(from_, to)
    run = Run.of(load_plan(usecase), settings(), "review")
    asked = {name: share for name, share in (("uncertain", uncertain), ("random", random)) if share is not None}
    review = msgspec.structs.replace(run.pipeline.file.review, **asked)
    file = msgspec.structs.replace(run.pipeline.file, review=review)
    run = replace(run, pipeline=replace(run.pipeline, file=file))
    done = review_step(run, first, end, tell_kafka=send)
    if as_json:
        print(json.dumps(done))
    elif "kept" in done:
        print(f"of {done['events']:,} scores: {done.get('uncertain', 0)} uncertain, {done.get('random', 0)} random")
        print(f"{done['sent']} sent to the queue; kept with their odds in {done['kept']}")
    else:
        print("no score was archived since the last sample")
