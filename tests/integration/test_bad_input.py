"""Bad input gets a clear error, nothing is lost in silence, and nothing else stops."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from ops.local import Services
from riskflow.settings import PROJECT
from tests import support
from tests.chaos.observer import wait_until
from tests.integration.worker import Bench, bench, event

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

DAY_MS = 86_400_000
BAD = {
    "broken json": (b'{"event_id": "a', "broken_json"),
    "not utf-8": (b"\xff\xfe\x00", "broken_json"),
    "a list": (b"[1, 2]", "wrong_type"),
    "null": (b"null", "wrong_type"),
    "no value": (None, "null_value"),
    "text for a number": (event("b1", amount="many"), "wrong_type"),
    "true for an id": (event("b2", customer_id=True), "wrong_type"),
    "an object for an id": (event("b3", customer_id={"a": 1}), "wrong_type"),
    "no customer": (event("b4", customer_id=None), "missing_field"),
    "no id": (event("b5", event_id=None), "missing_field"),
    "nan": (b'{"event_id": "b6", "amount": NaN}', "broken_json"),
    "1e999": (event("b7").replace(b"12.5", b"1e999"), "out_of_range"),
    "seconds": (event("b8", occurred_at=int(time.time())), "time_in_seconds"),
    "no zone": (event("b9", occurred_at="2026-01-01T00:00:00"), "wrong_type"),
    "future": (event("b10", occurred_at=int(time.time() * 1000) + DAY_MS), "future_time"),
    "too deep": (event("b11", extra=json.loads("[" * 9 + "]" * 9)), "too_deep"),
    "too many fields": (event("b12", extra={str(i): i for i in range(300)}), "too_many_fields"),
    "1 MB": (event("b13", extra="x" * 1_000_000), "too_large"),
    "a long id": (event("b14", customer_id="x" * 129), "wrong_type"),
    "another currency": (event("b15", currency="USD"), "currency"),
}
TOUCHY = """

def touchy(amount):
    if (amount == 666.0).any():
        raise ValueError("no 666")
    return amount
"""
HOSTILE = ["@pos", "e:", "", "\x00", "😀" * 128, "a b/c%d", "{uc}:head", "__proto__", "-1"]


@pytest.fixture(scope="module")
def stream(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A worker of a copy of card_fraud with one calculation that cannot stand an amount of 666."""
    folder = tmp_path_factory.mktemp("usecases")
    shutil.copytree(PROJECT / "usecases" / "card_fraud", folder / "card_fraud")
    with (folder / "card_fraud" / "features.py").open("a") as file:
        file.write(TOUCHY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RISKFLOW_USECASES", str(folder))
        with bench("bad.", folder / "worker.log", patch) as made:
            support.publish_small(made.plan)
            made.start()
            made.send("events", event("warm"))
            made.wait_scored({"warm"}, 120)
            yield made


def test_each_bad_message_is_rejected_with_its_reason(stream: Bench) -> None:
    stream.send("events", *(value for value, _ in BAD.values()), event("good after bad"))
    stream.wait_scored({"good after bad"})
    wait_until(lambda: len(stream.rejected()) >= len(BAD), 30, "rejecting everything bad")
    kinds = sorted(kind for kind, _, _ in stream.rejected())
    assert kinds == sorted(kind for _, kind in BAD.values())
    for _, detail, record in stream.rejected():
        headers = {k: v.decode() for k, v in record.headers}
        assert detail
        assert headers["source-topic"] == stream.names.feed("events")
        assert headers["source-offset"].isdigit()
        assert headers["error-where"].startswith("$")


def test_a_rejected_message_keeps_its_bytes(stream: Bench) -> None:
    stream.send("events", b"these very bytes")
    wait_until(lambda: any(r.value == b"these very bytes" for _, _, r in stream.rejected()), 30, "the rejection")


def test_ids_are_data(stream: Bench) -> None:
    customers = [event(f"hostile customer {i}", customer_id=name) for i, name in enumerate(HOSTILE)]
    terminals = [event(f"hostile terminal {i}", terminal_id=name) for i, name in enumerate(HOSTILE)]
    ids = [event(f"id {name}") for name in HOSTILE if len(name) < 100]
    stream.send("events", *customers, *terminals, *ids)
    n = len(HOSTILE)
    stream.wait_scored({f"hostile customer {i}" for i in range(n)} | {f"hostile terminal {i}" for i in range(n)})
    stream.wait_scored({f"id {name}" for name in HOSTILE if len(name) < 100})


def test_seven_and_text_seven_are_one_entity(stream: Bench) -> None:
    stream.send("events", event("s1", customer_id=77777))
    stream.wait_scored({"s1"})
    stream.send("events", event("s2", customer_id="77777"))
    stream.wait_scored({"s2"})
    partitions = {stream.scores()[i]["positions"]["customer_id"].split("/")[0] for i in ("s1", "s2")}
    assert len(partitions) == 1


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_any_compression_is_read(stream: Bench, codec: str) -> None:
    stream.send("events", event(f"by {codec}"), compression=codec)
    stream.wait_scored({f"by {codec}"})


def test_a_calculation_that_raises_degrades_that_row_only(stream: Bench) -> None:
    stream.send("events", event("beside it"), event("touched", amount=666.0), event("behind it"))
    scores = stream.wait_scored({"beside it", "touched", "behind it"})
    assert scores["touched"]["degraded"] == ["touchy"]
    assert scores["beside it"]["degraded"] == scores["behind it"]["degraded"] == []


def test_a_duplicate_has_no_effect_and_other_content_is_rejected(stream: Bench) -> None:
    first = event("twice", customer_id="d1")
    stream.send("events", first)
    stream.wait_scored({"twice"})
    stream.send("events", first, event("twice", customer_id="d1", amount=99.0), event("after twice", customer_id="d1"))
    stream.wait_scored({"after twice"})
    wait_until(lambda: any(kind == "id_conflict" for kind, _, _ in stream.rejected()), 30, "the conflict")
    assert sum(r.key == b"twice" for r in stream.topics.read(stream.names.scores)) == 1


def test_a_label_for_an_unknown_event_waits_and_stops_nothing(stream: Bench) -> None:
    label = {"event_id": "never seen", "is_fraud": True, "labelled_at": int(time.time() * 1000) - 10, "source": "x"}
    before = len(stream.rejected())
    stream.send("labels", json.dumps(label).encode())
    stream.send("events", event("after the label"))
    stream.wait_scored({"after the label"})
    assert len(stream.rejected()) == before


def test_a_topic_full_of_garbage_delays_but_stops_nothing(stream: Bench) -> None:
    before = len(stream.rejected())
    stream.send("events", *(b"garbage %d" % i for i in range(3000)), event("at the end"))
    stream.wait_scored({"at the end"})
    wait_until(lambda: len(stream.rejected()) == before + 3000, 60, "rejecting the garbage")
