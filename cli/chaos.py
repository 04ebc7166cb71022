"""`riskflow chaos`: breaks a stream in every way while events flow, then counts what was lost."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(chaos)


def chaos(
    usecase: Annotated[str, typer.Argument(help="use case")] = "card_fraud",
    events: Annotated[int, typer.Option(min=1_000, help="events; other messages come on top")] = 20_000,
    kills: Annotated[
        int, typer.Option(min=0, help="kill -9 of a worker that has scored, at random and named points")
    ] = 10,
    seed: int = 1,
    zombies: Annotated[int, typer.Option(min=0, help="a worker freezes, another takes over, it wakes up")] = 0,
    rescales: Annotated[int, typer.Option(min=0, help="1 -> 3 -> 1 workers")] = 0,
    broker_kills: Annotated[int, typer.Option(min=0, help="kill -9 of Kafka")] = 0,
    redis_kills: Annotated[int, typer.Option(min=0, help="kill -9 of Redis")] = 0,
    redis_lost_second: Annotated[int, typer.Option(min=0, help="Redis comes back without its last second")] = 0,
    redis_emptied: Annotated[int, typer.Option(min=0, help="Redis is emptied, then `riskflow rebuild`")] = 0,
    besides: Annotated[int, typer.Option(min=0, help="over to a generation of more partitions, workers killed")] = 0,
    failovers: Annotated[int, typer.Option(min=0, help="a Redis replica that lags takes over")] = 0,
    stalls: Annotated[int, typer.Option(min=0, help="connections stall, slow down, are reset; six variants")] = 0,
    disk_full: Annotated[int, typer.Option(min=0, help="no room for Redis, for Kafka; needs root")] = 0,
    swaps: Annotated[int, typer.Option(min=0, help="a new champion under load")] = 0,
    publish_kills: Annotated[int, typer.Option(min=0, help="publishers killed half-way")] = 0,
    publish_races: Annotated[int, typer.Option(min=0, help="two publishers at once")] = 0,
    sigterms: Annotated[int, typer.Option(min=0, help="orderly stops, with the broker up and down")] = 0,
    clock_steps: Annotated[int, typer.Option(min=0, help="the worker's clock jumps; needs libfaketime")] = 0,
    start_bursts: Annotated[int, typer.Option(min=0, help="kills again and again while a worker starts")] = 0,
    entities: Annotated[int, typer.Option(min=10, help="customers; of other entities there are fewer")] = 2_000,
    hot: Annotated[bool, typer.Option("--hot", help="half of the events are about one entity")] = False,
    per_s: Annotated[float, typer.Option(min=10, help="events a second, while they flow freely")] = 3_000.0,
    partitions: Annotated[int, typer.Option(min=1)] = 6,
    control: Annotated[
        bool, typer.Option("--control", help="the same kills on stock Faust instead: what the suite can see")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the whole report as the last line")] = False,
) -> None:
    """Kill, freeze and starve a real stream while events flow, then count what was lost or counted twice.

    Starts its own Kafka and Redis in a temporary folder. Exit code 1 if anything is missing, extra or different.

    riskflow chaos --kills 10 --zombies 1 --rescales 1 --swaps 5 --seed 7
    """
    from chaos.run import Options, run

    if control:
        _control(events, kills, seed, per_s, as_json)
        return
    faults = {
        "zombies": zombies, "rescales": rescales, "broker_kills": broker_kills, "redis_kills": redis_kills,
        "redis_lost_second": redis_lost_second, "redis_emptied": redis_emptied, "besides": besides,
        "failovers": failovers, "stalls": stalls, "disk_full": disk_full, "swaps": swaps,
        "publish_kills": publish_kills, "publish_races": publish_races, "sigterms": sigterms,
        "clock_steps": clock_steps, "start_bursts": start_bursts,
    }  # fmt: skip
    wanted = {name: n for name, n in faults.items() if n}
    found = run(Options(usecase, events, kills, seed, per_s, partitions, entities, hot, wanted), _tell)
    _print(found)
    if as_json:
        typer.echo(json.dumps(found))
    if not found["clean"]:
        raise typer.Exit(1)


def _control(events: int, kills: int, seed: int, per_s: float, as_json: bool) -> None:
    from chaos.control import control

    found = control(events, kills, seed, per_s, _tell)
    for name, value in found.items():
        typer.echo(f"{name:44} {value}")
    if as_json:
        typer.echo(json.dumps(found))


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _print(found: dict[str, Any]) -> None:
    """The report for people; a line for each figure."""
    for name, value in found.items():
        if isinstance(value, dict):
            for inner, number in value.items():
                typer.echo(f"{name + ': ' + inner:44} {number}")
        elif isinstance(value, list):
            for line in value:
                typer.echo(f"{name:44} {line}")
        elif value != "":
            typer.echo(f"{name:44} {value}")
    typer.echo("everything held" if found["clean"] else "NOT everything held")
