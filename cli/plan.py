"""`riskflow plan show` and `riskflow plan diff`: what is computed where, from what, and what a change would touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from riskflow.plan import Plan

Usecase = Annotated[str, typer.Argument(help="use case")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Against = Annotated[str, typer.Option(help="a saved `plan show --json`, an alias such as champion, or a version")]


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    group = typer.Typer(no_args_is_help=True, help="What a use case computes, and what a change of it would touch.")
    group.command()(show)
    group.command()(diff)
    app.add_typer(group, name="plan")


def show(usecase: Usecase = "card_fraud", as_json: Json = False) -> None:
    """Check a use case and list every value it knows, in the order in which it becomes known."""
    from cli.common import load_plan

    said = described(load_plan(usecase))
    if as_json:
        print(json.dumps(said, indent=1))
        return
    heads = ("name", "what", "known at", "fingerprint", "inputs")
    _print_table(
        heads, [(*(str(n[h.replace(" ", "_")]) for h in heads[:4]), ", ".join(n["inputs"])) for n in said["nodes"]]
    )
    print(f"\n{len(said['nodes'])} values; records of layout {said['layout']}")


def diff(usecase: Usecase = "card_fraud", against: Against = "champion", as_json: Json = False) -> None:
    """Compare a use case as it stands with a saved plan, or with what a published bundle needs."""
    from cli.common import load_plan

    plan = load_plan(usecase)
    found = compared(described(plan), _before(plan, against))
    if as_json:
        print(json.dumps(found))
        return
    for what in ("added", "changed", "removed"):
        for name in found[what]:
            print(f"{what:8} {name}")
    if not any(found[w] for w in ("added", "changed", "removed")):
        print("nothing differs")
    if found["layout_changed"]:
        print("\nRecords have another layout: stop the workers, `riskflow rebuild`, start them.")


def described(plan: Plan) -> dict[str, Any]:
    """A plan as plain data: what `plan show --json` prints and `plan diff` compares."""
    return {
        "usecase": plan.name,
        "layout": plan.layout_fingerprint,
        "nodes": [
            {
                "name": n.name,
                "what": n.what,
                "known_at": "intake" if n.stage < 0 else plan.entities[n.stage],
                "fingerprint": n.fingerprint,
                "inputs": list(n.inputs),
                "type": n.type.kind,
            }
            for n in plan.nodes.values()
        ],
    }


def compared(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Names added, changed and removed. What a bundle does not use is not called added."""
    new, old = ({n["name"]: n["fingerprint"] for n in said["nodes"]} for said in (now, before))
    return {
        "added": [] if before.get("partial") else [n for n in new if n not in old],
        "changed": [n for n in new if n in old and new[n] != old[n]],
        "removed": [n for n in old if n not in new],
        "layout_changed": before.get("layout", now["layout"]) != now["layout"],
    }


def _before(plan: Plan, against: str) -> dict[str, Any]:
    from riskflow.errors import NotReady

    if not (against.isdigit() or against.isidentifier()):
        try:
            said: dict[str, Any] = json.loads(Path(against).read_text())
        except (OSError, ValueError) as error:
            raise NotReady(
                f"{against}: {error}. Save one with `riskflow plan show {plan.name} --json > FILE`."
            ) from None
        return said
    needed = _needed_by_bundle(plan, against)
    return {"partial": True, "nodes": [{"name": n, "fingerprint": f} for n, f in needed.items()]}


def _needed_by_bundle(plan: Plan, against: str) -> dict[str, str]:
    import redis

    from riskflow.bundle import Bundle
    from riskflow.connect import connect
    from riskflow.errors import NotReady
    from riskflow.names import Names
    from riskflow.registry import Registry
    from riskflow.settings import settings

    registry = Registry(connect(settings().redis_url), Names(plan.name, prefix=settings().topic_prefix))
    try:
        moves = registry.aliases()
        if not against.isdigit() and against not in moves:
            raise NotReady(f"{plan.name}: no bundle is called {against!r}. See `riskflow models list {plan.name}`.")
        raw = registry.raw(int(against) if against.isdigit() else moves[against].version)
    except redis.ConnectionError as error:
        raise NotReady(f"Redis: {error}. Start it with `riskflow up`, or compare with --against FILE.json.") from None
    return Bundle.from_bytes(raw).needed


def _print_table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(r[j]) for r in [heads, *rows]) for j in range(len(heads) - 1)]
    for row in [heads, *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) + "  " + row[-1])
