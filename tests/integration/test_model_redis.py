"""The store of the model test answers as Redis does, call after call; a script that compares less is told from it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import NoScriptError

from batch.switch import CUT, HOLD
from riskflow.names import Names
from riskflow.state import BEHIND, HELD_UNTIL_MS, LEFT_FOR, UNTIL, new_head
from stream import head
from stream.head import CLAIM, COMMIT, FIELDS, FOR_EACH, GATE, LOAD, SHA, SWEEP, packed
from tests.model.store import Store, Version, encoded, tag
from tests.support import store

pytestmark = pytest.mark.services
NAMES = Names("alike")
KEYS = [NAMES.head("card", 0), NAMES.records("card", 0)]
LATER_MS = 10**14  # epochs beyond both clocks, so that both count on from what is stored
ENTITIES = [b"e:%d" % i for i in range(4)]
TOUCHED = {0: b"\3\0", 126: b"\3\x7e", 127: b"\3\x7f", 128: b"\3\x80\1", 129: b"\3\x81\1", 20_000: b"\3\xa0\x9c\1"}
DAYS = list(TOUCHED)  # at which a record was touched, and how it begins


class Both:
    """One call to the store in memory and to Redis, and both answers."""

    def __init__(self, scripts: dict[str, str]) -> None:
        self.redis, self.memory = store(), Store()
        self.redis.delete(*KEYS)
        self.memory.scripts.update(SHA.values())
        self.sha = {script: self.redis.script_load(scripts.get(script, script)) for script in SHA}

    def begin(self, **more: Any) -> None:
        values = {**new_head(5, "topic", "layout"), "epoch": LATER_MS, **more}
        self.redis.hset(KEYS[0], mapping=values)
        stored = {k.encode(): encoded(v) for k, v in values.items()}
        self.memory.partitions[tag(KEYS[0])] = [Version(0, stored, {})]

    def call(self, script: str, keys: list[str], arguments: list[Any]) -> tuple[Any, Any]:
        real = self.redis.evalsha(self.sha[script], len(keys), *keys, *arguments)
        return self.memory.run(SHA[script], keys, [encoded(a) for a in arguments], self), real

    def contents(self) -> tuple[Any, Any]:
        version = self.memory.now(KEYS[0]) or Version(0, {}, {})
        return (version.head, version.records), (self.redis.hgetall(KEYS[0]), self.redis.hgetall(KEYS[1]))


def random_call(made: random.Random) -> tuple[str, list[str], list[Any]]:
    """Claims, loads, commits and sweeps; most by the owner, some by others."""
    epoch, position = LATER_MS + made.randrange(3), 5 + made.randrange(3)
    what = made.randrange(7)
    if what == 0:
        return CLAIM, KEYS[:1], [made.choice(["topic", "another"]), *FIELDS]
    chosen = made.sample(ENTITIES, made.randrange(len(ENTITIES) + 1))
    if what == 1:
        return GATE, KEYS[:1], made.choice([[epoch, position], ["", ""]])
    if what < 4:
        return LOAD, KEYS, [epoch, position, packed(chosen)]
    if what == 6:
        return SWEEP, KEYS, [epoch, position, 0, made.randrange(3), 500]
    new = [b"position", b"%d" % (position + made.randrange(2)), b"sent", json.dumps({"a": made.randrange(9)}).encode()]
    new += [b"watermark", b"%d" % made.choice(DAYS)] if made.random() < 0.8 else []
    records = [x for e in chosen for x in (e, TOUCHED[made.choice(DAYS)] + made.randbytes(made.randrange(40)))]
    return COMMIT, KEYS, [epoch, position, packed(new), packed(records)]


def differs(scripts: dict[str, str], sequences: int) -> str:
    """The first call that both answered in different ways; nothing when there is none."""
    both = Both(scripts)
    for seed in range(sequences):
        made = random.Random(seed)
        both.redis.delete(*KEYS)
        both.memory.partitions.clear()
        if seed % 10:
            both.begin(**({1: {LEFT_FOR: 2}, 2: {UNTIL: 9}, 3: {BEHIND: 1}}.get(seed % 10, {})))
        for _ in range(12):
            script, keys, arguments = random_call(made)
            memory, real = both.call(script, keys, arguments)
            if memory != real:
                return f"{memory} and {real} to {arguments}"
        memory, real = both.contents()
        if memory != real:
            return f"{memory} and {real} are stored"
    return ""


def test_the_store_in_memory_answers_as_redis_does(services: Any) -> None:
    assert differs({}, 300) == ""


def test_both_know_no_script_that_was_not_loaded(services: Any) -> None:
    with pytest.raises(NoScriptError):
        Store().run(SHA[CLAIM], KEYS[:1], [], None)
    real = store()
    real.script_flush()
    with pytest.raises(NoScriptError):
        real.evalsha(SHA[CLAIM], 1, KEYS[0])


def test_a_script_on_several_heads_answers_for_each(services: Any) -> None:
    redis = store()
    keys = [(NAMES.head("card", p), NAMES.records("card", p)) for p in range(3)]
    for head_key, records in keys:
        redis.delete(head_key, records)
        redis.hset(head_key, mapping=new_head(5, "topic", "layout"))
    epochs = [0, 1, 0]  # somebody else has the one between

    def on_all(script: str, *arguments: bytes) -> Any:
        values = [v for epoch in epochs for v in (epoch, 5, *arguments)]
        sha = redis.script_load(FOR_EACH[script])
        wanted = [k for pair in keys for k in (pair[:1] if script == GATE else pair)]
        return redis.evalsha(sha, len(wanted), *wanted, *values)

    refused = [0, b"0", b"5"]
    assert on_all(LOAD, packed(ENTITIES[:2])) == [[1, None, None], refused, [1, None, None]]
    assert on_all(GATE) == [[1, b"", 0, b""], refused, [1, b"", 0, b""]]
    assert on_all(COMMIT, packed([b"sent", b"{}"]), packed([b"e:0", b"x"])) == [[1], refused, [1]]
    assert on_all(LOAD, packed(ENTITIES[:2])) == [[1, b"x", None], refused, [1, b"x", None]]


def without(what: str, instead: str) -> Callable[[str], str]:
    """A script that lacks something; the test fails where the script does not have it any more."""

    def changed(script: str) -> str:
        assert what in script
        return script.replace(what, instead)

    return changed


@pytest.mark.parametrize(
    ("script", "change"),
    [
        (CLAIM, without("tonumber(stored[2]) + 1", "tonumber(stored[2])")),
        (CLAIM, without("if stored[4] == ARGV[1] then", "if true then")),
        (CLAIM, without("if stored[3] then return {stored[3]} end", "")),
        (CLAIM, without("redis.call('HINCRBY', KEYS[1], 'starts', 1)", "")),
        (LOAD, without("stored[1] ~= ARGV[1] or ", "")),
        (LOAD, without("or stored[2] ~= ARGV[2]", "")),
        (GATE, without("stored[1] ~= ARGV[1] or ", "")),
        (GATE, without("or stored[2] ~= ARGV[2]", "")),
        (GATE, without("stored[3] or ''", "''")),
        (GATE, without("stored[5] or ''", "''")),
        (COMMIT, without("stored[1] ~= ARGV[1] or ", "")),
        (COMMIT, without("or stored[2] ~= ARGV[2]", "")),
        (COMMIT, without("redis.call('HSET', KEYS[1]", "redis.call('HMGET', KEYS[1]")),
        (SWEEP, without("stored[1] ~= ARGV[1] or ", "")),
        (SWEEP, without("or stored[2] ~= ARGV[2]", "")),
        (SWEEP, without("touched < oldest", "touched <= oldest")),
        (SWEEP, without("stored[3] or 0", "'20000'")),
        (SWEEP, without("scale * 128, at + 1", "scale, at + 1")),
    ],
)
def test_a_script_that_compares_less_is_told_from_the_store(
    services: Any, script: str, change: Callable[[str], str]
) -> None:
    assert differs({script: change(script)}, 300) != ""


def test_a_hold_ends_by_the_clock_of_redis(services: Any) -> None:
    both = Both({})
    seconds, _ = both.redis.time()
    for ahead_s, least_ms, most_ms in ((100, 90_000, 100_000), (-1, 0, 0)):
        both.redis.delete(*KEYS)
        both.begin(**{HELD_UNTIL_MS: (seconds + ahead_s) * 1000})
        _, answer = both.call(GATE, KEYS[:1], ["", ""])
        assert least_ms <= answer[2] <= most_ms


def test_holds_and_cuts_are_those_of_redis(services: Any) -> None:
    both = Both({})
    for cut_before, held in ((True, True), (True, False), (False, True), (False, False)):
        both.redis.delete(*KEYS)
        both.begin(**({UNTIL: 9} if cut_before else {}))
        both.memory.clock_ms = int(both.redis.time()[0]) * 1000
        if held:
            assert both.memory.hold(KEYS[0], 5_000) == both.redis.eval(HOLD, 1, KEYS[0], 5_000)
        assert both.memory.cut(KEYS[0], 7) == both.redis.eval(CUT, 1, KEYS[0], 7)
        (memory, _), (real, _) = both.contents()
        assert (
            memory.get(UNTIL.encode()) == real.get(UNTIL.encode()) == (b"9" if cut_before else b"7" if held else None)
        )
        assert HELD_UNTIL_MS.encode() not in real


def test_a_claim_takes_the_time_of_redis(services: Any) -> None:
    both = Both({})
    both.begin(epoch=0)
    seconds, _ = both.redis.time()
    _, answer = both.call(CLAIM, KEYS[:1], ["topic", *FIELDS])
    assert abs(int(answer[FIELDS.index("epoch")]) / 1000 - seconds) < 60
    assert "TIME" in head.CLAIM
