"""`riskflow models history | compare | lineage`: who was live when, what differs, where a version comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.models_common import Json, UseCase, number, open_registry, public_keys, shown_alias, table, version_of, when

if TYPE_CHECKING:
    from riskflow.bundle import Bundle
    from riskflow.moves import Move, Period
    from riskflow.registry import Registry

Version = Annotated[str, typer.Argument(help="a version, or an alias such as champion")]
Compared = Annotated[str, typer.Argument(help="a version, an alias, or external:SYSTEM for what another system says")]
SAME = "="


def history(
    alias: Annotated[str | None, typer.Option(help="only this alias")] = None,
    at: Annotated[str, typer.Option(help="who was live at this time, RFC 3339")] = "",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Who was live when, by whose word and why, and what gates and races had said. Each move's signature is checked.

    riskflow models history --at 2026-11-02T10:15:00Z
    """
    from cli.common import at_ms
    from riskflow.moves import check_name, doubts, periods

    if alias is not None:
        check_name(alias)
    registry = open_registry(usecase)
    moves = registry.history()
    doubted = {moves[i].number: why for i, why in doubts(moves, _keys(), registry.names).items()}
    chosen = [m for m in moves if alias in (None, m.alias)]
    stays = {p.move.number: p for p in periods(moves)}
    if at:
        then = registry.live_at(at_ms(at, "--at") or 0).values()
        chosen = [m for m in chosen if m in then]
    gates = {m.version: gates_of(registry, m.version) for m in chosen if m.version}
    races = {m.version: _races(registry, m) for m in chosen if m.version}
    rows = [
        {**_as_json(m, stays.get(m.number), gates.get(m.version), doubted.get(m.number)),
         "races": races.get(m.version, [])}
        for m in chosen
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table(
        ["move", "from, UTC", "to", "alias", "version", "who", "gates", "signed", "why"],
        [
            [r["number"], when(r["from_ms"] or r["at_ms"]), _until(r), shown_alias(m), m.version or "off", m.who,
             _passed(r["gates"]), "NO" if r["doubt"] else "yes", m.why]
            for m, r in zip(chosen, rows, strict=True)
        ],
        f"no alias of {usecase} {'pointed anywhere then' if at else 'has moved yet'}",
        folds="why",
    )  # fmt: skip
    for row in rows:
        if row["doubt"]:
            typer.echo(f"move {row['number']} does not count: {row['doubt']}")
    for race in (race for of_version in races.values() for race in of_version):
        typer.echo(_raced(race))


def compare(a: Compared, b: Compared, usecase: UseCase = "card_fraud", as_json: Json = False) -> None:
    """Two versions side by side: figures, data, features, policy, code, parent.

    riskflow models compare champion challenger

    Or one and another system, by what both have said of the same archived events.

    riskflow models compare champion external:old_engine
    """
    from batch.shadow_scores import is_external

    registry = open_registry(usecase)
    if is_external(a) or is_external(b):
        _compare_with_external(registry, a, b, as_json)
        return
    sides = [_bundle(registry, name) for name in (a, b)]
    rows = compared(*(facts(registry, bundle) for bundle in sides))
    if as_json:
        said = {name: {"a": left, "b": right} for name, left, right in rows}
        typer.echo(json.dumps({"a": sides[0].version, "b": sides[1].version, "facts": said}))
        return
    table(
        ["", *(f"{name} ({bundle.version})" for name, bundle in zip((a, b), sides, strict=True))],
        [
            [name, _shown(name, left), SAME if left == right else _shown(name, right)]
            for name, left, right in _flat(rows)
        ],
        "there is nothing to compare",
    )


def _compare_with_external(registry: Registry, a: str, b: str, as_json: bool) -> None:
    from batch.external import beside_external
    from batch.run import Run
    from batch.shadow_scores import is_external
    from cli.common import load_plan
    from riskflow.errors import RiskflowError
    from riskflow.settings import settings

    if is_external(a) and is_external(b):
        raise RiskflowError(f"{a} and {b} are both other systems. Compare each with a version, or with the champion")
    name, system = (b, a) if is_external(a) else (a, b)
    version = version_of(registry, name)
    run = Run.of(load_plan(registry.names.usecase), settings(), "compare")
    found = beside_external(run, version, system)
    sides = dict(zip((name, system), found, strict=True))
    rows = [(fact, sides[a][fact], sides[b][fact]) for fact in found[0]]
    if as_json:
        facts = {fact: {"a": left, "b": right} for fact, left, right in rows}
        names = {side: name if is_external(name) else version for side, name in (("a", a), ("b", b))}
        typer.echo(json.dumps({**names, "facts": facts}))
        return
    head = ["", *(side if is_external(side) else f"{side} ({version})" for side in (a, b))]
    table(head, [[fact, number(left), number(right)] for fact, left, right in rows], "there is nothing to compare")


def lineage(version: Version = "champion", usecase: UseCase = "card_fraud", as_json: Json = False) -> None:
    """A bundle's data and code, and those of every parent: the version that was champion when it was judged."""
    registry = open_registry(usecase)
    chain = ancestors(registry, version_of(registry, version))
    if as_json:
        typer.echo(json.dumps(chain))
        return
    table(
        ["version", "parent", "code", "learned from", "rows", "frauds", "gates", "was live, UTC"],
        [
            [c["version"], c["parent"] or "-", c["code"], _span(c["data"]), number(c["data"].get("rows")),
             number(c["data"].get("frauds")), _passed(c["gates"]), ", ".join(c["live"]) or "never"]
            for c in chain
        ],
        f"{usecase} has no bundle {version}",
        folds="was live, UTC",
    )  # fmt: skip


# ---- what is known of a version --------------------------------------------------------------------------------------


def facts(registry: Registry, bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, flat: name -> plain value."""
    policy = bundle.policy
    live = [shown_alias(m) for m in registry.aliases().values() if m.version == bundle.version]
    return {
        "aliases": ", ".join(live) or None, "created": bundle.created_at, "code": bundle.code, "parent": bundle.parent,
        "gates": _passed(gates_of(registry, bundle.version)),
        **{f"figures {name}": value for name, value in bundle.metrics.items()},
        "data span": _span(bundle.data), **{f"data {name}": value for name, value in bundle.data.items()},
        **{f"model {m['name']}": f"{len(m['inputs'])} inputs, {bundle.manifest['files'][m['file']][:12]}"
           for m in bundle.models},
        "review from": policy["review"], "decline from": policy["decline"],
        "bands": ", ".join(f"{name} {bound:g}" for name, bound in policy["bands"]),
        **{f"rule {r['name']}": f"{r['when']} -> {r['action']}" for r in policy["rules"]},
        **{f"feature {name}": fingerprint[:12] for name, fingerprint in bundle.needed.items()},
    }  # fmt: skip


def compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value here, value there), in order; features only where they differ."""
    names = dict.fromkeys([*a, *b])
    rows = [(name, a.get(name), b.get(name)) for name in names]
    return [r for r in rows if not (r[0].startswith("feature ") and r[1] == r[2])]


def ancestors(registry: Registry, version: int) -> list[dict[str, Any]]:
    """The version, its parent, the parent's parent: as far as the registry has them."""
    from riskflow.errors import NotReady
    from riskflow.moves import periods

    stays = periods(registry.history())
    out: list[dict[str, Any]] = []
    while version and version not in [c["version"] for c in out]:
        try:
            bundle = _bundle(registry, str(version))
        except NotReady:
            if not out:
                raise
            break  # an old one that was cleared away
        live = [_stay(p) for p in stays if p.move.version == version]
        out.append({
            "version": version, "hash": bundle.content_hash, "parent": bundle.parent, "created_at": bundle.created_at,
            "code": bundle.code, "data": bundle.data, "features": bundle.needed, "gates": gates_of(registry, version),
            "figures": bundle.metrics, "live": live,
        })  # fmt: skip
        version = bundle.parent or 0
    return out


def gates_of(registry: Registry, version: int) -> list[dict[str, Any]] | None:
    """What each gate said of a version, where the run that made it is still in this home folder."""
    from riskflow.errors import RiskflowError
    from riskflow.settings import settings

    try:
        run = _bundle(registry, str(version)).data.get("run")
        folder = settings().home / "runs" / registry.names.usecase
        verdict = (folder / str(run) / "verdict.json").read_text() if run and "/" not in str(run) else "{}"
        gates = json.loads(verdict).get("gates")
    except (RiskflowError, OSError, ValueError):
        return None
    return gates if isinstance(gates, list) else None


def _races(registry: Registry, move: Move) -> list[dict[str, Any]]:
    from batch.verdicts import races_of
    from riskflow.settings import settings

    return races_of(settings().home, registry.names.usecase, move.version, move.bundle_hash)


def _bundle(registry: Registry, name: str) -> Bundle:
    from riskflow.bundle import Bundle

    return Bundle.from_bytes(registry.raw(version_of(registry, name)))


def _keys() -> Any:
    """No key at all: no move is believed."""
    from riskflow.errors import NotReady

    try:
        return public_keys()
    except NotReady:
        return {}


# ---- words -----------------------------------------------------------------------------------------------------------


def _as_json(move: Move, stay: Period | None, gates: Any, doubt: str | None) -> dict[str, Any]:
    live = {"from_ms": stay.from_ms, "to_ms": stay.to_ms} if stay else {"from_ms": None, "to_ms": None}
    return {**vars(move), **live, "gates": gates, "doubt": doubt}


def _stay(stay: Period) -> str:
    """`champion 2026-11-02 10:15 to now`."""
    until = "now" if stay.to_ms is None else when(stay.to_ms)[:16]
    return f"{stay.move.alias} {when(stay.from_ms)[:16]} to {until}"


def _until(row: Mapping[str, Any]) -> str:
    return "-" if row["from_ms"] is None else "now" if row["to_ms"] is None else when(row["to_ms"])


def _raced(race: Mapping[str, Any]) -> str:
    """One line: who won against whom, by how much, on what."""
    ended = "won" if race["wins"] else "did not win"
    return (
        f"version {race['version']} {ended} its race against champion {race['against']}: {race['metric']} "
        f"{race['difference']:+.4g}, at least {race['lower']:+.4g}, on {race['rows']:,} events with "
        f"{race['frauds']:,.0f} frauds, {_span(race)} ({race['file']})"
    )


def _passed(gates: list[dict[str, Any]] | None) -> str:
    """In a word; each gate's number stands in the JSON."""
    if gates is None:
        return "-"
    return f"{sum(bool(gate.get('passed')) for gate in gates)} of {len(gates)}"


def _span(data: Mapping[str, Any]) -> str:
    first, last = data.get("first_ms"), data.get("last_ms")
    return "-" if first is None or last is None else f"{when(first)[:10]} to {when(last)[:10]}"


def _flat(rows: list[tuple[str, Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """A row for each plain value: what holds others by name becomes rows of its own."""
    for name, left, right in rows:
        if isinstance(left, dict) or isinstance(right, dict):
            inside = (side if isinstance(side, dict) else {} for side in (left, right))
            yield from _flat([(f"{name} {key}", a, b) for key, a, b in compared(*inside)])
        else:
            yield name, left, right


def _shown(name: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return when(int(value)) if name.endswith("_ms") else number(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
