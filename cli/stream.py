"""`riskflow topics` and `riskflow worker`."""

from __future__ import annotations

from typing import Annotated

import typer

Usecase = Annotated[str, typer.Argument(help="use case")]


def register(app: typer.Typer) -> None:
    """Adds the commands of the stream."""
    app.command()(topics)
    app.command()(worker)


def topics(
    usecase: Usecase = "card_fraud",
    partitions: Annotated[int | None, typer.Option(help="of each topic that is made; default from settings")] = None,
) -> None:
    """Make the topics and heads of a use case; what is there stays as it is."""
    from batch import topics as batch_topics
    from cli.common import load_plan
    from riskflow.settings import settings

    made = batch_topics.make(load_plan(usecase), settings(), partitions)
    print(f"{len(made.topics)} topics made, {made.heads} heads made, {made.kept} heads kept")


def worker(
    usecase: Usecase = "card_fraud",
    slot: Annotated[int | None, typer.Option(help="stable number of this worker; default: the lowest free one")] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="on the generation that `riskflow rebuild --beside` made")
    ] = False,
) -> None:
    """Run a stream worker; it is started again when it ends unexpectedly, and goes on where it was."""
    from stream.supervise import supervise

    raise typer.Exit(supervise(usecase, slot, beside=beside))
