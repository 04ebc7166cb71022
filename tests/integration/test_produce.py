"""Rows arrive on a real broker: all of them, once, as JSON, at the rate that was asked for."""

import json
import time

import msgspec
import polars as pl
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from typer.testing import CliRunner

from batch import produce
from batch.produce import Outgoing, from_file, send
from batch.simulate import live, simulate
from ops import local
from riskflow.errors import DeclarationError, NotReady, RiskflowError
from riskflow.settings import settings

START_MS = 1_767_225_600_000


@pytest.fixture(scope="module")
def world():
    return simulate(4, START_MS, 3, 200, 50)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """A broker of its own, unless the environment names one."""
    with local.running(tmp_path_factory.mktemp("home"), airflow=False, usual_ports=False) as services:
        yield services.kafka


@pytest.fixture
def topic(kafka, request):
    """A fresh topic with 3 partitions."""
    name = f"{request.node.name.lower()}.events"
    make(kafka, name)
    return name


def make(kafka: str, *names: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(name, num_partitions=3, replication_factor=1) for name in names])
    admin.close()


def topics(kafka: str) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    names = admin.list_topics()
    admin.close()
    return names


def received(kafka: str, topic: str) -> list:
    """All records of a topic, up to the ends it has now."""
    consumer = KafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    partitions = [TopicPartition(topic, n) for n in range(3)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends, records = consumer.end_offsets(partitions), []
    while len(records) < sum(ends.values()):
        records += [record for batch in consumer.poll(timeout_ms=1_000).values() for record in batch]
    consumer.close()
    return records


# what a message is


def test_what_is_not_known_is_left_out_and_times_lose_their_unit():
    row = {"event_id": "a", "occurred_at_ms": 5, "channel": None, "amount": 1.5}
    assert produce.as_json(row) == b'{"event_id":"a","occurred_at":5,"amount":1.5}'


# files, without a broker


def test_a_parquet_of_events_is_sent_row_by_row(world, tmp_path):
    world.events.write_parquet(tmp_path / "e.parquet")
    messages = list(from_file(tmp_path / "e.parquet", "t", rate_per_s=100))
    rows = [msgspec.json.decode(m.value) for m in messages]
    expected = world.events.rename({"occurred_at_ms": "occurred_at"})
    assert rows == expected.to_dicts()
    assert [m.key.decode() for m in messages] == world.events["event_id"].to_list()
    assert messages[100].due_s == 1.0


def test_csv_times_become_milliseconds_and_ids_keep_their_zeros(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(
        "event_id,occurred_at,customer_id,amount\n007,2026-01-01T00:00:00Z,01,2.5\n8,2026-01-01 00:01:00,2,3\n"
    )
    rows = [msgspec.json.decode(m.value) for m in from_file(path, "t")]
    assert rows == [
        {"event_id": "007", "customer_id": "01", "amount": 2.5, "occurred_at": START_MS},
        {"event_id": "8", "customer_id": "2", "amount": 3.0, "occurred_at": START_MS + 60_000},
    ]
    assert [m.due_s for m in from_file(path, "t", speed=10)] == [0.0, 6.0]


def test_lines_of_json_go_out_byte_for_byte_even_when_broken(tmp_path):
    path = tmp_path / "e.jsonl"
    lines = [b'{"event_id": 7, "x": 1e3}', b"{broken", b"[1]", b'{"a":1}', b'{"event_id":"\xe9"}']
    lines.append(b'{"event_id":"\xf0\x9f\x99\x82"}')
    path.write_bytes(b"\r\n".join(lines) + b"\n\n")
    messages = list(from_file(path, "t"))
    assert [m.value for m in messages] == lines
    assert [m.key for m in messages] == [b"7", None, None, None, None, "🙂".encode()]


@pytest.mark.parametrize(
    ("pace", "says"),
    [({"rate_per_s": 0}, "above 0"), ({"speed": -1}, "above 0"), ({"rate_per_s": 1, "speed": 1}, "one of them")],
)
def test_a_pace_must_make_sense(tmp_path, pace, says):
    with pytest.raises(DeclarationError, match=says):
        next(from_file(tmp_path / "e.csv", "t", **pace))


def test_rows_without_a_time_cannot_be_paced_by_it(tmp_path):
    pl.DataFrame({"event_id": ["a"]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(DeclarationError, match="occurred_at or labelled_at"):
        next(from_file(tmp_path / "e.parquet", "t", speed=1))


def test_no_broker_is_a_clear_message():
    with pytest.raises(NotReady, match="riskflow up"):
        send([], "127.0.0.1:1")


# to a broker


@pytest.mark.services
def test_every_row_arrives_once(world, kafka, topic, tmp_path):
    world.events.write_parquet(tmp_path / "e.parquet")
    progress = []
    sent = send(from_file(tmp_path / "e.parquet", topic), kafka, lambda *seen: progress.append(seen))
    rows = [msgspec.json.decode(record.value) for record in received(kafka, topic)]
    assert sent.messages == len(world.events) == len(rows)
    assert sorted(row["event_id"] for row in rows) == world.events["event_id"].to_list()
    assert progress[-1] == (sent.messages, sent.messages)


@pytest.mark.services
def test_messages_leave_at_the_rate(world, kafka, topic):
    messages = live(world, world.start_ms + 86_400_000, 200, begin_ms=0)
    events = (Outgoing(topic, m.key, m.value, m.due_ms / 1000) for m in messages if m.feed == "events")
    sent = send([next(events) for _ in range(300)], kafka)
    assert 299 / 200 <= sent.seconds < 299 / 200 + sent.late_ms / 1000 + 1
    stamps = sorted(record.timestamp for record in received(kafka, topic))
    assert all(stamp - stamps[0] >= n * 5 - sent.late_ms - 2 for n, stamp in enumerate(stamps))


@pytest.mark.services
def test_a_pause_of_the_source_does_not_stretch_the_schedule(kafka, topic):
    def stutter():
        for n in range(200):
            if n == 50:
                time.sleep(1.0)
            yield Outgoing(topic, None, b"{}", n / 100)

    sent = send(stutter(), kafka)
    assert 1.99 <= sent.seconds < 2.8
    assert sent.late_ms > 900


@pytest.mark.services
def test_a_missing_topic_is_not_made_by_accident(kafka):
    with pytest.raises(NotReady, match="A topic is named USECASE"):
        send([Outgoing("nothing.events", None, b"{}", 0.0)], kafka)
    assert "nothing.events" not in topics(kafka)


@pytest.mark.services
def test_a_message_that_is_too_large_is_an_error_not_a_loss(kafka, topic):
    with pytest.raises(RiskflowError, match="did not take a message"):
        send([Outgoing(topic, None, b"x" * 3_000_000, 0.0)], kafka)


# commands


@pytest.fixture
def riskflow(kafka, monkeypatch):
    """Run one of this group's commands against the broker; returns what it printed to stdout."""
    import typer

    from cli import data

    app = typer.Typer()
    data.register(app)
    monkeypatch.setenv("RISKFLOW_KAFKA", kafka)
    settings.cache_clear()
    yield lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    settings.cache_clear()


@pytest.mark.services
def test_produce_prints_a_summary(riskflow, world, topic, tmp_path):
    world.labels.head(100).write_parquet(tmp_path / "l.parquet")
    done = riskflow("produce", tmp_path / "l.parquet", "--topic", topic, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["messages"] == 100


@pytest.mark.services
def test_label_sends_one_label_without_entity_ids(riskflow, kafka, monkeypatch):
    monkeypatch.setenv("RISKFLOW_TOPIC_PREFIX", "labelled.")
    settings.cache_clear()
    make(kafka, "labelled.card_fraud.labels")
    assert riskflow("label", "t-000042", "fraud").exit_code == 0
    (record,) = received(kafka, "labelled.card_fraud.labels")
    row = msgspec.json.decode(record.value)
    assert set(row) == {"label_id", "event_id", "is_fraud", "labelled_at", "source"}
    assert (row["event_id"], row["is_fraud"], row["source"]) == ("t-000042", True, "analyst")
    assert abs(row["labelled_at"] - time.time() * 1000) < 60_000


@pytest.mark.services
def test_simulate_streams_a_world_that_ends_now(riskflow, kafka, monkeypatch):
    monkeypatch.setenv("RISKFLOW_TOPIC_PREFIX", "sim.")
    settings.cache_clear()
    make(kafka, "sim.card_fraud.events", "sim.card_fraud.labels")
    size = ("--days", 10, "--customers", 30, "--terminals", 10)
    done = riskflow("simulate", "--to-kafka", "--rate", 5_000, *size, "--json")
    sent = json.loads(done.stdout)["topics"]
    times = [msgspec.json.decode(r.value)["occurred_at"] for r in received(kafka, "sim.card_fraud.events")]
    assert sent["sim.card_fraud.events"] == len(times) > 300
    assert sent["sim.card_fraud.labels"] == len(received(kafka, "sim.card_fraud.labels")) > 0
    assert max(times) < time.time() * 1000
    assert max(times) - min(times) > 9 * 86_400_000


def test_simulate_to_files_and_import_need_no_broker(tmp_path, monkeypatch):
    import typer

    from cli import data

    app = typer.Typer()
    data.register(app)
    run = CliRunner().invoke
    size = ["--days", "5", "--customers", "50", "--terminals", "20", "--seed", "9"]
    for name in ("a", "b"):
        assert run(app, ["simulate", "--out", str(tmp_path / name), *size]).exit_code == 0
    assert "is replaced" in run(app, ["simulate", "--out", str(tmp_path / "a"), *size]).stderr
    for file in ("events", "labels", "truth"):
        assert (tmp_path / "a" / f"{file}.parquet").read_bytes() == (tmp_path / "b" / f"{file}.parquet").read_bytes()
    done = run(app, ["import", str(tmp_path / "a" / "events.parquet"), "--out", str(tmp_path / "c"), "--json"])
    assert json.loads(done.stdout)["tables"]["events"]["rows"] == len(pl.read_parquet(tmp_path / "a/events.parquet"))
    refused = run(app, ["simulate", "--out", str(tmp_path / "c"), *size])
    assert refused.exit_code == 2
    assert "made by riskflow import" in " ".join(refused.stderr.replace("│", " ").split())
    assert run(app, ["simulate", "--out", str(tmp_path / "c"), *size, "--until-day", "3", "--force"]).exit_code == 0
    first, last = (pl.read_parquet(tmp_path / "c/events.parquet")["occurred_at_ms"].sort().gather([0, -1])).to_list()
    assert last - first < 3 * 86_400_000
    assert run(app, ["simulate"]).exit_code == 2
