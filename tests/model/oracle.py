"""What must have come out, worked out from the feeds alone in plain Python, and what did come out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from faust.types import TP

from batch.dead import differing
from riskflow import evaluate
from riskflow.canary import in_share, salt
from riskflow.columns import Columns, Text
from riskflow.windows import DAY
from riskflow.wire import decode
from tests.model.world import (
    CARDS,
    LIVE_DAYS,
    NAMES,
    PAYMENTS,
    REPORTS,
    SHARE,
    SHOPS,
    WINDOW_DAYS,
    World,
    fragile,
    plan,
    roster,
    roster_of,
)

FEEDS = (PAYMENTS, REPORTS)
ROW_BITS = 12
OF_BUNDLE = {"_score", "_action", "_bundle"}


@dataclass(frozen=True)
class Expected:
    """One message that takes effect."""

    kind: int
    offset: int
    name: str
    card: str
    shop: str | None
    value: float
    at_ms: int


class Ages:
    """Who of a partition is dead: by the newest day of all its rows, now and when somebody was seen last."""

    def __init__(self) -> None:
        self.today, self._seen = 0, dict[str, int]()

    def dead(self, entity: str) -> bool:
        return self.today - self._seen.get(entity, self.today) > LIVE_DAYS

    def see(self, entity: str, at_ms: int) -> None:
        self.today = max(self.today, at_ms // DAY)
        self._seen[entity] = self.today


class Window:
    """Values by day, as the ring of the longest window keeps them."""

    def __init__(self) -> None:
        self._days: dict[int, list[float]] = {}

    def add(self, at_ms: int, value: float) -> None:
        newest = max([*self._days, at_ms // DAY])
        self._days.setdefault(at_ms // DAY, []).append(value)
        self._days = {day: found for day, found in self._days.items() if day > newest - WINDOW_DAYS - 1}

    def at(self, at_ms: int) -> list[float]:
        today = at_ms // DAY
        return [v for day, found in self._days.items() if today - WINDOW_DAYS <= day <= today for v in found]


def expected(world: World) -> tuple[list[Expected], set[str]]:
    """The messages that take effect, and keys of those that are rejected, by the order of the cards' logs."""
    messages, taken, rejected = {}, [], set()
    for kind, tp in enumerate(FEEDS):
        for record in world.broker.logs[tp]:
            message = msgspec.json.decode(record.value)
            if "payment_id" in message or "report_id" in message:
                messages[kind, record.offset] = message
            else:
                rejected.add(f"{STAGE[kind]}:0:{record.offset}")
    for tp in CARDS:
        ages, known = Ages(), dict[str, dict[tuple[int, str], Any]]()
        for kind, offset in first_on(world, tp):
            message = messages.pop((kind, offset))
            said = _expected(kind, offset, message)
            if ages.dead(said.card):
                known.pop(said.card)
            before = known.setdefault(said.card, {}).setdefault((kind, said.name), message)
            if before is message:
                taken.append(said)
                ages.see(said.card, said.at_ms)
            elif before != message:
                rejected.add(f"{STAGE[kind]}:0:{offset}")
    return [*taken, *(_expected(*place, message) for place, message in messages.items())], rejected


def _expected(kind: int, offset: int, message: dict[str, Any]) -> Expected:
    """Of a message, as if no copy of it had come before."""
    at_ms = message["paid_at"] if kind == 0 else message["known_at"]
    value = float(message["amount"] if kind == 0 else message["is_fraud"])
    name = message["payment_id"] if kind == 0 else message["report_id"]
    return Expected(kind, offset, name, message["card"], message.get("shop"), value, at_ms)


def first_on(world: World, tp: TP) -> list[tuple[int, int]]:
    """Feed and offset of all that stands on an internal log, each where it stands first."""
    places: list[tuple[int, int]] = []
    for record in world.broker.logs[tp]:
        columns, _ = decode(record.value)
        kinds, offsets = np.asarray(columns["_kind"]).tolist(), np.asarray(columns["_log_intake"]) >> ROW_BITS
        places += zip(kinds, offsets.tolist(), strict=True)
    return list(dict.fromkeys(places))


STAGE = ("payments", "reports")


@dataclass
class Row:
    """One row of `rows`, with the epoch of its block."""

    epoch: int
    values: dict[str, Any]

    @property
    def place(self) -> int:
        return int(self.values["_log_shop"])


def rows_of(world: World) -> list[Row]:
    """All rows that were sent, in the order of the topic."""
    out = []
    for record in world.broker.topic(NAMES.rows):
        columns, meta = decode(record.value)
        lists = [c.values() if isinstance(c, Text) else [v.tobytes() for v in c] for c in columns.values()]
        plain = {n: c.tolist() for n, c in columns.items() if not isinstance(c, Text)}
        for i, values in enumerate(zip(*lists, strict=True)):
            row = dict(zip(columns, values, strict=True))
            row.update({n: plain[n][i] for n in ("_kind", "_log_shop", "_log_card", "_part_card", "_log_intake")})
            out.append(Row(meta["epoch"], row))
    return out


def bundle_of(row: Row) -> int:
    """The bundle that decided."""
    return int(np.frombuffer(row.values["_bundle"], np.int64)[0])


def effective(sent: list[tuple[int, bytes]]) -> set[bytes]:
    """What readers get of messages with their epochs."""
    return {value for epoch, value in sent if epoch == max(e for e, _ in sent)}


def canary_failed(bundles: list[int]) -> bool:
    """Whether one roster's canary and champion decided the same event, because the canary failed beside another."""
    return len({roster_of(b) for b in bundles}) == 1 and any(fragile(b) for b in bundles)


def deciders(card: bytes, by: int) -> set[int]:
    """Who may decide on a card's payments while the roster of this bundle is pinned."""
    team = roster(roster_of(by))
    if team.canary is None or not in_share(Text.of([card]), SHARE, salt(plan().name, team.canary.hash))[0]:
        return {team.champion.version}
    return {team.canary.version, *([team.champion.version] if fragile(team.canary.version) else [])}


def others_of(by: int, count: float) -> set[tuple[str, int, float]]:
    """What is said beside the decision of this bundle, on an event at a shop that was seen so often."""
    team = roster(roster_of(by))
    pins = [*team.others, *([team.champion] if by != team.champion.version else [])]
    return {(p.alias, p.version, round(count / 1000 + p.version / 10, 6)) for p in pins}


def number(value: bytes) -> float:
    """A float64 column's value."""
    return float(np.frombuffer(value, np.float64)[0])


class Check:
    """All that is wrong in a world at rest, in words."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wrong: list[str] = []
        self.taken, self.rejected = expected(world)

    def run(self) -> list[str]:
        self._rows()
        self._scores()
        self._opinions()
        self._rejected()
        return [*self.world.wrong, *self.world.store.stolen, *self.wrong]

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def _may_differ(self, place: int) -> bool:
        return place >> ROW_BITS < self.world.two_scores_below

    def _rows(self) -> None:
        self.effective: dict[int, Row] = {}
        for row in rows_of(self.world):
            before = self.effective.get(row.place)
            if before is not None:
                self._same(before, row)
            if before is None or row.epoch >= before.epoch:
                self.effective[row.place] = row
        rows = list(self.effective.values())
        found = sorted((r.values["_kind"], r.values["_log_intake"] >> ROW_BITS) for r in rows)
        wanted = sorted((e.kind, e.offset) for e in self.taken)
        self.must(found == wanted, f"rows of {found}, expected {wanted}")
        if found == wanted:
            self._features(rows)
            self._records(rows)

    def _same(self, a: Row, b: Row) -> None:
        differing = {n for n in a.values if a.values[n] != b.values.get(n)}
        if differing and (self._may_differ(a.place) or canary_failed([bundle_of(a), bundle_of(b)])):
            differing -= OF_BUNDLE
        self.must(not differing, f"row at {a.place} was sent twice with different {sorted(differing)}")

    def _features(self, rows: list[Row]) -> None:
        """Each row says what came before it, once, in the order of the log."""
        said = {(e.kind, e.offset): e for e in self.taken}
        paid: dict[str, Window] = defaultdict(Window)
        ages: dict[int, Ages] = defaultdict(Ages)
        last: dict[tuple[int, int], int] = {}
        for row in sorted(rows, key=lambda r: (r.values["_part_card"], r.values["_log_card"])):
            event = said[row.values["_kind"], row.values["_log_intake"] >> ROW_BITS]
            source = row.values["_part_card"], event.kind
            self.must(last.get(source, -1) < event.offset, f"{event} came out of order")
            last[source] = event.offset
            if ages[source[0]].dead(event.card):
                paid.pop(event.card, None)
            ages[source[0]].see(event.card, event.at_ms)
            if event.kind == 0:
                before = paid[event.card].at(event.at_ms)
                found = number(row.values["paid_events_count_90d"]), number(row.values["paid_amount_sum_90d"])
                self.must(found == (len(before), sum(before)), f"{event}: card said {found}, before it were {before}")
                paid[event.card].add(event.at_ms, event.value)
        self._at_shops(rows, said)

    def _at_shops(self, rows: list[Row], said: dict[tuple[int, int], Expected]) -> None:
        shops: dict[str, Window] = defaultdict(Window)
        frauds: dict[str, Window] = defaultdict(Window)
        ages = Ages()
        for row in sorted(rows, key=lambda r: r.place):
            event = said[row.values["_kind"], row.values["_log_intake"] >> ROW_BITS]
            if event.shop is None:
                continue
            if ages.dead(event.shop):
                shops.pop(event.shop, None)
                frauds.pop(event.shop, None)
            ages.see(event.shop, event.at_ms)
            if event.kind == 0:
                before = shops[event.shop].at(event.at_ms)
                found = [number(row.values[f"{n}_90d"]) for n in
                         ("at_shop_events_count", "at_shop_half_sum", "said_is_fraud_sum")]  # fmt: skip
                known = [len(before), sum(before), sum(frauds[event.shop].at(event.at_ms))]
                self.must(found == known, f"{event}: shop said {found}, expected {known}")
                shops[event.shop].add(event.at_ms, event.value / 2)
            else:
                frauds[event.shop].add(event.at_ms, event.value)

    def _records(self, rows: list[Row]) -> None:
        """Records equal a replay of what took effect, in one go, and so does the head's watermark."""
        for tps, stage in ((CARDS, plan().stages[0]), (SHOPS, plan().stages[1])):
            of, log = f"_part_{stage.entity.field}", f"_log_{stage.entity.field}"
            for tp in tps:
                mine = [r for r in rows if self._partition(r, of) == tp.partition]
                mine.sort(key=lambda r: self._log(r, log))
                version = self.world.store.now(World.head_key(tp))
                assert version is not None
                wanted, watermark = replayed(stage, mine)
                same = differing(stage, wanted, version.records, watermark) == 0
                self.must(same, f"records of {tp.topic} {tp.partition} are not a replay's")
                found = int(version.head[b"watermark"])
                self.must(found == watermark, f"watermark {found} of {tp.topic} {tp.partition}, expected {watermark}")

    @staticmethod
    def _partition(row: Row, of: str) -> int:
        value = row.values[of]
        return value if isinstance(value, int) else int(np.frombuffer(value, np.int32)[0])

    @staticmethod
    def _log(row: Row, log: str) -> int:
        return int(row.values[log])

    def _sent(self, topic: str) -> dict[str, list[tuple[int, bytes]]]:
        """Key -> epoch and value of each message."""
        out: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for record in self.world.broker.topic(topic):
            out[(record.key or b"").decode()].append((int(dict(record.headers)["epoch"]), record.value))
        return out

    def _scores(self) -> None:
        values: dict[int, list[tuple[int, bytes]]] = defaultdict(list)  # by the offset: a copy may be scored, too
        for sent in self._sent(NAMES.scores).values():
            for epoch, value in sent:
                values[int(msgspec.json.decode(value)["positions"]["payments"].split("/")[1])].append((epoch, value))
        found, wanted = sorted(values), sorted(e.offset for e in self.taken if e.kind == 0)
        self.must(found == wanted, f"scores of {found}, expected {wanted}")
        for row in self.effective.values():
            if row.values["_kind"] == 0:
                self._score(values.get(row.values["_log_intake"] >> ROW_BITS, []), row)

    def _score(self, sent: list[tuple[int, bytes]], row: Row) -> None:
        name = row.values["_id"].decode()
        different = {value for _, value in sent}
        by = [msgspec.json.decode(value)["bundle"] for value in different]
        may = self._may_differ(row.place) or canary_failed(by)
        self.must(len(different) == 1 or may, f"{name} has the scores {sorted(different)}")
        if not sent:
            return
        bundles = {msgspec.json.decode(value)["bundle"] for value in effective(sent)}
        of_row = bundle_of(row)
        self.must(bundles == {of_row}, f"{name}: the score is of bundles {bundles}, the row of {of_row}")

    def _opinions(self) -> None:
        """Each event has what the others of the roster that decided it say, and its decision beside it.

        Of an event whose copy counted as new, as its entity was dead, no message says which of the two it is about.
        Where it was decided again by a roster without others, what was said before is of a lower epoch than the score.
        """
        scored, sent = self._sent(NAMES.scores), self._sent(NAMES.shadow)
        newest = {name: max(epoch for epoch, _ in mine) for name, mine in scored.items()}
        sent = {name: [m for m in mine if m[0] >= newest.get(name, 0)] for name, mine in sent.items()}
        times = Counter(e.name for e in self.taken if e.kind == 0)
        sent = {name: mine for name, mine in sent.items() if times[name] <= 1}
        decided = [
            r for r in self.effective.values() if r.values["_kind"] == 0 and times[r.values["_id"].decode()] == 1
        ]
        self.must(set(sent) <= {r.values["_id"].decode() for r in decided}, "an opinion on what was not decided")
        for row in decided:
            self._opinion(sent.get(row.values["_id"].decode(), []), row)

    def _opinion(self, sent: list[tuple[int, bytes]], row: Row) -> None:
        name, by = row.values["_id"].decode(), bundle_of(row)
        self.must(by in deciders(row.values["card"], by), f"{name} of {row.values['card']} was decided by {by}")
        wanted = others_of(by, np.nan_to_num(number(row.values["at_shop_events_count_90d"])))
        messages = {value for _, value in sent}
        may = self._may_differ(row.place) or any(fragile(pin.version) for pin in roster(roster_of(by)).beside)
        self.must(len(messages) <= 1 or may, f"{name} has the opinions {sorted(messages)}")
        heard = set()
        for value in effective(sent):
            said = msgspec.json.decode(value)
            self.must(said["decided"]["bundle"] == by, f"{name}: decided by {by}, and this stands beside it: {said}")
            heard |= {(o["alias"], o["bundle"], o["score"]) for o in said["others"]}
        self.must(heard <= wanted, f"{name}: heard {heard}, expected {wanted}")
        missing = {other for other in wanted - heard if not fragile(other[1])}
        self.must(not missing, f"{name}: not heard {missing}")

    def _rejected(self) -> None:
        keys = {(r.key or b"").decode() for r in self.world.broker.topic(NAMES.rejected)}
        self.must(keys == self.rejected, f"rejected {sorted(keys)}, expected {sorted(self.rejected)}")


def replayed(stage: Any, rows: list[Row]) -> tuple[dict[bytes, bytes], int]:
    """What a store holds of one partition after these rows, where nothing is swept."""
    if not rows:
        return {}, 0
    columns = columns_of(rows)
    entities, slots = evaluate.entities_of(stage, columns)
    seen = evaluate.observe(plan(), stage, columns, slots, [None] * len(entities), {0: 0}, evaluate.Failures())
    return {b"e:" + e: r for e, r in zip(entities, seen.records, strict=True)}, seen.watermarks.get(0, 0)


def columns_of(rows: list[Row]) -> Columns:
    """Rows as columns again."""
    names = ("_kind", "_id", "at_ms", "card", "shop", "amount", "channel", "note", "is_fraud", "half")
    kinds = {"_kind": np.int8, "at_ms": np.int64, "channel": np.int32}
    out: Columns = {}
    for name in names:
        values = [r.values[name] for r in rows]
        if name in ("_id", "card", "shop", "note"):
            out[name] = Text.of(values)
        elif name == "_kind":
            out[name] = np.array(values, np.int8)
        else:
            out[name] = np.frombuffer(b"".join(values), kinds.get(name, np.float64))
    return out
