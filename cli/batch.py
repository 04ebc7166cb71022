"""`riskflow archive | labels | parity | rebuild | switch | park`: what runs beside the stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from batch.parity import Parity

Usecase = Annotated[str, typer.Argument(help="use case")]


def register(app: typer.Typer) -> None:
    """Adds the commands of the batch side."""
    for command in (archive, labels, mend, parity, rebuild, switch, park):
        app.command()(command)


def archive(usecase: Usecase = "card_fraud", as_json: Json = False) -> None:
    """Bring the Parquet archive up to the ends of the topics. A second run adds nothing."""
    from batch.archive import archive as run

    done = run(*_context(usecase))
    if as_json:
        print(json.dumps(done.summary()))
        return
    for name, topic in done.topics.items():
        print(f"{name:32} {topic.messages:>10,} messages {topic.rows:>10,} rows {topic.files:>4} files")
    for gap in done.gaps:
        print(f"missing for good, Kafka had dropped it: {gap}")


def labels(usecase: Usecase = "card_fraud", as_json: Json = False) -> None:
    """Complete labels that came without entity ids from the archive, and send them again."""
    from batch.labels import complete_labels

    done = complete_labels(*_context(usecase))
    if as_json:
        print(json.dumps(done.summary()))
        return
    print(f"{done.sent} labels completed and sent, {len(done.pending)} wait for an event that is not known")
    for name in done.pending[:20]:
        print(f"  {name}")


def mend(
    usecase: Usecase = "card_fraud",
    deep: Annotated[
        bool, typer.Option("--deep", help="read every value, not only what each file says it holds")
    ] = False,
    as_json: Json = False,
) -> None:
    """Set files of the archive aside that cannot be read; `riskflow archive` then brings their offsets again."""
    from batch.mend import mend as run

    done = run(*_context(usecase), deep=deep)
    if as_json:
        print(json.dumps(done.summary()))
        return
    for name in done.set_aside:
        print(f"set aside: {name}")
    for name in done.back:
        print(f"archived again: {name}")
    print(f"{done.looked_at} files looked at, {len(done.set_aside)} cannot be read")


def parity(
    usecase: Usecase = "card_fraud",
    records: Annotated[bool, typer.Option("--records", help="compare the records in Redis too; at rest")] = False,
    fresh: Annotated[bool, typer.Option("--archive/--no-archive", help="bring the archive up to date first")] = True,
    since: Annotated[str, typer.Option(help="compare rows from this time on only, RFC 3339")] = "",
    as_json: Json = False,
) -> None:
    """Replay the archived rows in their recorded positions and compare every bit. Exit code 1 if anything differs."""
    from batch.archive import archive as bring
    from batch.parity import parity as run
    from cli.common import at_ms

    plan, conf = _context(usecase)
    if fresh:
        bring(plan, conf)
    found = run(plan, conf, records=records, since_ms=at_ms(since, "--since"))
    _print_parity(found)
    if as_json:
        print(json.dumps(found.summary()))
    if not found.equal:
        raise typer.Exit(1)


def _print_parity(found: Parity) -> None:
    print(f"{'feature':48} {'mismatch':>9} {'missing':>9} {'extra':>9}")
    for name, feature in found.features.items():
        print(f"{name:48} {feature.mismatches:>9} {feature.missing:>9} {feature.extra:>9}")
    print(f"generation {found.generation}: {found.rows} rows compared, {found.unfinished} on their way")
    print(f"rows missing {len(found.missing_rows)} {found.missing_rows[:5]}, rows extra {found.extra_rows}")
    print(f"positions that do not rise: {found.order_errors}")
    if found.records_differing is not None:
        print(f"records that differ: {found.records_differing} of {found.records}")


def rebuild(
    usecase: Usecase = "card_fraud",
    events: Annotated[Path | None, typer.Option(help="history of a first start: Parquet or CSV")] = None,
    labels: Annotated[Path | None, typer.Option(help="its labels")] = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="of the new internal topics")] = None,
    drop_old: Annotated[bool, typer.Option("--drop-old", help="delete the old generation's records")] = False,
    beside: Annotated[
        bool, typer.Option("--beside", help="while workers go on with the present one; then `riskflow switch`")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fold history into the next generation of records. Workers must be stopped; events wait on Kafka.

    For a first start on existing history (--events), changed windows, an emptied Redis, or another number of
    partitions. With --beside nothing stops.
    """
    from batch.rebuild import rebuild as run

    if beside and (events or labels or drop_old):
        raise typer.BadParameter("--beside goes with --partitions only")
    plan, conf = _context(usecase)
    if beside:
        _make_beside(plan, conf, partitions, as_json)
        return
    done = run(plan, conf, events=events, labels=labels, partitions=partitions, drop_old=drop_old)
    if as_json:
        print(json.dumps(done.summary()))
        return
    print(f"generation {done.generation} of {usecase}, from {done.made_from}: {done.rows} rows folded")
    print("records: " + ", ".join(f"{n} of {stage}" for stage, n in done.records.items()))
    if done.not_known_yet:
        print(f"{done.not_known_yet} labels are dated in the future and were left out: send them when they are known")
    print(f"{done.sent_on} unfinished rows sent on, {done.rejected} rejected; {done.seconds:.1f} s")
    print(f"Start the workers: riskflow worker {usecase}")


def _make_beside(plan: Any, conf: Any, partitions: int | None, as_json: bool) -> None:
    from batch.beside import make_beside

    made = make_beside(plan, conf, partitions)
    if as_json:
        print(json.dumps(made.summary()))
        return
    print(f"generation {made.generation} of {plan.name} is made beside {made.behind}: {made.rows} rows folded")
    print("records: " + ", ".join(f"{n} of {stage}" for stage, n in made.records.items()))
    print(f"{made.partitions} partitions; {made.seconds:.1f} s. Generation {made.behind} goes on scoring.")
    print(f"Start workers that catch up: riskflow worker {plan.name} --beside")
    print(f"Then go over to it:          riskflow switch {plan.name}")


def switch(
    usecase: Usecase = "card_fraud",
    cancel: Annotated[bool, typer.Option("--cancel", help="take the generation beside away instead")] = False,
    wait_s: Annotated[float, typer.Option("--wait-s", help="for the new generation to catch up")] = 600.0,
    as_json: Json = False,
) -> None:
    """Go over to the generation that `riskflow rebuild --beside` made, while events flow."""
    from batch.beside import cancel as take_away
    from batch.switch import switch as run

    plan, conf = _context(usecase)
    if cancel:
        number = take_away(plan, conf)
        print(f"generation {number} is gone" if number else "there was none beside the present one")
        return
    done = run(plan, conf, timeout_s=wait_s)
    if as_json:
        print(json.dumps(done.summary()))
        return
    print(
        f"generation {done.generation} of {usecase} scores; {done.left} had nothing left after {done.drained_s:.2f} s"
    )
    print(f"events waited {done.held_s + done.waited_s:.2f} s at most. Workers of generation {done.left} go over by")
    print("themselves where their plan fits; stop those that say it does not.")


def park(usecase: Usecase, stage: str, partition: int, offset: int) -> None:
    """Take one block or message out of a stage's log, when a worker ends at it again and again."""
    from batch.park import park as run

    done = run(*_context(usecase), stage, partition, offset)
    print(f"{'parked' if done.new else 'was parked already'}: {stage}, partition {partition}, offset {offset}")
    print(f"{done.rows} rows; kept in {done.kept}. Start the worker again: it sends them to `rejected`.")


def _context(usecase: str) -> tuple[Any, Any]:
    from cli.common import load_plan
    from riskflow.settings import settings

    return load_plan(usecase), settings()
