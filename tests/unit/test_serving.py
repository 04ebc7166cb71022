"""Serving without a broker: what is stored, what is answered, how errors look, when it is ready."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import fakeredis
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from riskflow.bundle import Bundle
from riskflow.card import packed
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.settings import Settings, load
from serving import routes
from serving.app import create_app
from serving.metrics import Metrics
from serving.progress import Progress
from serving.reader import Reader, as_row
from serving.services import Services
from serving.store import Store

Record = namedtuple("Record", "value headers timestamp topic partition offset")
NOW_MS = 1_793_614_500_250
HOSTILE = [
    "a/b", "/", "//", "a b", "", "🙂" * 128, "%2F", "a?b#c", "line\nbreak", "nul\0", "e:", "@pos", "é", "+", "../x",
    "'; --",
]  # fmt: skip


def message(event_id: str, **changes: object) -> bytes:
    content = {
        "event_id": event_id, "score": 0.871204, "band": "high", "action": "review", "reasons": ["large"], "bundle": 7,
        "degraded": [], "occurred_at": NOW_MS, "positions": {"events": "3/12/0", "customer_id": "5/8/17"},
    }  # fmt: skip
    return json.dumps({**content, **changes}).encode()


def record(value: bytes | None, epoch: object = 5, decided_at_ms: object = NOW_MS + 30) -> Record:
    given = {"decided-at": str(decided_at_ms), "epoch": str(epoch), "worker": "host/0"}
    return Record(value, [(k, v.encode()) for k, v in given.items()], NOW_MS + 31, "card_fraud.scores", 0, 7)


def put(store: Store, event_id: str, epoch: int = 5, **changes: object) -> None:
    row = as_row(record(message(event_id, **changes), epoch))
    assert row
    store.write([row], {0: 8}, "topic-1")


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "scores.sqlite")
    yield opened
    opened.close()


# the store


@pytest.mark.parametrize(("first", "second", "kept"), [(5, 6, "second"), (6, 5, "first"), (5, 5, "second")])
def test_of_two_scores_of_an_event_the_higher_epoch_counts(store, first, second, kept):
    put(store, "a", first, band="first")
    put(store, "a", second, band="second")
    assert json.loads(store.find("a").value)["band"] == kept


def test_the_higher_epoch_counts_within_one_batch_too(store):
    rows = [as_row(record(message("a", band=str(epoch)), epoch)) for epoch in (3, 9, 4)]
    store.write(rows, {}, "topic-1")
    assert (json.loads(store.find("a").value)["band"], store.find("a").epoch) == ("9", 9)


def test_scores_and_positions_survive_a_restart_together(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    put(store, "a")
    with pytest.raises(sqlite3.Error):
        store.write([("b", b"", None, None, None, 0)], {0: 99}, "topic-1")
    store.close()
    again = Store(tmp_path / "s.sqlite")
    assert (again.find("a").worker, again.find("b"), again.positions("topic-1")) == ("host/0", None, {0: 8})
    again.close()


def test_positions_of_a_deleted_topic_do_not_count(store):
    put(store, "a")
    assert store.positions("topic-2") == {}


def test_old_scores_are_deleted_in_pieces(store, monkeypatch):
    monkeypatch.setattr("serving.store.DELETED_AT_ONCE", 2)
    store.write([(b"%d" % n, b"", 0, None, None, n) for n in range(5)], {}, "topic-1")
    assert [store.delete_before(3) for _ in range(3)] == [2, 1, 0]
    assert [store.find(str(n)) is not None for n in range(5)] == [False, False, False, True, True]


def test_a_store_of_another_format_is_made_anew(tmp_path):
    path = tmp_path / "s.sqlite"
    store = Store(path)
    put(store, "a")
    store.close()
    with sqlite3.connect(path) as old:
        old.execute("PRAGMA user_version = 99")
    old.close()
    again = Store(path)
    assert (again.find("a"), again.positions("topic-1")) == (None, {})
    again.close()


def test_two_servers_do_not_share_a_file(tmp_path, store):
    with pytest.raises(NotReady, match="another `riskflow serve`"):
        Store(tmp_path / "scores.sqlite")


# records


@pytest.mark.parametrize(
    "strange",
    [
        record(None), record(b"\xff"), record(b"{"), record(b"[]"), record(b'{"event_id": "a"}'),
        record(message("a", score="high")), record(message("a"), "many"),
        record(message("a"), 5, "noon"),
    ],
)  # fmt: skip
def test_what_is_not_a_score_is_not_taken(strange):
    assert as_row(strange) is None


def test_a_score_without_headers_is_the_oldest_there_is():
    row = as_row(Record(message("a"), [], NOW_MS, "t", 0, 0))
    assert row == (b"a", message("a"), 0, None, None, NOW_MS)


def test_new_fields_of_a_score_are_ignored(store):
    put(store, "a", colour="red")
    assert store.find("a")


# progress


def test_behind_is_the_age_of_the_newest_end_that_was_reached():
    now = [100.0]
    progress = Progress("card_fraud", Metrics(), lambda: now[0])
    assert progress.status().behind_s is None
    progress.begin({0: 5, 1: 0})
    progress.ends({0: 10, 1: 3}, asked_s=100.0)
    progress.took(5, {0: 10})
    assert not progress.status().caught_up
    now[0] = 104.0
    progress.ends({0: 50, 1: 3}, asked_s=104.0)  # the first target stays until it is reached
    progress.took(3, {1: 3})
    assert progress.status().behind_s == 4.0
    assert progress.status().behind_records == 40
    now[0] = 120.0
    assert not progress.status().caught_up
    assert not progress.status().reachable


def test_a_reason_is_new_once():
    progress = Progress("card_fraud", Metrics())
    said = [progress.failed(ValueError(text), away=False, missing=False) for text in ("a", "a", "b")]
    assert said == [True, False, True]


# over HTTP


class Quiet(Services):
    """Services on a fake Redis, whose readers do not start; the test moves their progress."""

    def __init__(self, conf: Settings, metrics: Metrics, retention_s: float) -> None:
        super().__init__(conf, metrics, retention_s, redis=fakeredis.FakeRedis(server=fakeredis.FakeServer()))


@pytest.fixture
async def app(tmp_path, monkeypatch):
    monkeypatch.setattr(Reader, "start", lambda self: None)
    monkeypatch.setattr(Reader, "stop", lambda self: None)
    made = create_app(load(home=tmp_path), make_services=Quiet)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client(app) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://serving") as opened:
        yield opened


@pytest.fixture
def served(app):
    return app.state.services.served["card_fraud"]


@pytest.fixture
def registry(app) -> Registry:
    return Registry(app.state.services.redis, Names("card_fraud"))


def publish(registry: Registry, **metrics: float) -> Bundle:
    sections = {
        "usecase": "card_fraud", "version": 1, "code": "abc", "created_at": "2026-11-02T09:00:00Z", "models": [],
        "needed": {}, "policy": {}, "dictionaries": {}, "reference": {}, "profile": {}, "metrics": metrics, "data": {},
    }  # fmt: skip
    return registry.publish(Bundle.of(sections, {}), Ed25519PrivateKey.generate(), who="airflow", why="weekly")


def ready(served) -> None:
    served.progress.begin({0: 0})
    served.progress.ends({0: 0}, asked_s=time.monotonic())


def lose_redis(app: FastAPI) -> None:
    app.state.services.redis.connection_pool.connection_kwargs["server"].connected = False


def is_problem(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance"} <= set(body)
    return body


async def test_a_score_is_answered_with_what_its_headers_said(client, served):
    put(served.store, "tx-1")
    answer = await client.get("/v1/card_fraud/scores/tx-1")
    assert answer.status_code == 200
    assert answer.json() == {
        "event_id": "tx-1", "score": 0.871204, "band": "high", "action": "review", "reasons": ["large"], "bundle": 7,
        "degraded": [], "occurred_at": "2026-11-02T10:15:00.250Z", "occurred_at_ms": NOW_MS,
        "positions": {"events": "3/12/0", "customer_id": "5/8/17"}, "decided_at_ms": NOW_MS + 30, "epoch": 5,
        "worker": "host/0",
    }  # fmt: skip


@pytest.mark.parametrize("event_id", HOSTILE)
async def test_an_event_id_may_be_any_text(client, served, event_id):
    put(served.store, event_id)
    put(served.store, "other")
    answer = await client.get(f"/v1/card_fraud/scores/{quote(event_id, safe='')}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["event_id"] == event_id


async def test_an_unknown_event_is_a_problem_that_says_how_far_the_reader_is(client, served):
    body = is_problem(await client.get("/v1/card_fraud/scores/a%2Fb"), 404)
    assert body["type"] == "urn:riskflow:problem:no-score"
    assert body["instance"] == "/v1/card_fraud/scores/a%2Fb"
    assert "7 days; the reader has not caught up yet" in body["detail"]


@pytest.mark.parametrize("path", ["/v1/nothing/scores/a", "/v1/nothing/models", "/nothing", "/v1/card_fraud/scores"])
async def test_what_is_not_there_is_a_problem(client, path):
    is_problem(await client.get(path), 404)


async def test_an_unknown_use_case_names_those_that_exist(client):
    assert "card_fraud" in is_problem(await client.get("/v1/nothing/models"), 404)["detail"]


async def test_a_wrong_method_is_a_problem_that_names_the_right_one(client):
    answer = await client.post("/v1/card_fraud/scores/a")
    is_problem(answer, 405)
    assert answer.headers["allow"] == "GET"


async def test_an_id_that_is_too_long_is_a_problem(client):
    body = is_problem(await client.get("/v1/card_fraud/scores/" + "a" * 129), 422)
    assert body["errors"][0]["where"] == "path.event_id"


async def test_a_bug_is_a_problem_without_its_inside(client, served, monkeypatch):
    def broken(event_id: str) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(served.store, "_reader", SimpleNamespace(execute=broken, close=lambda: None))
    body = is_problem(await client.get("/v1/card_fraud/scores/a"), 500)
    assert "secret" not in json.dumps(body)


async def test_models_are_listed_newest_first_with_aliases_and_metrics(client, registry):
    publish(registry, ap=0.7)
    publish(registry, ap=0.75)
    body = (await client.get("/v1/card_fraud/models")).json()
    assert [(v["version"], v["aliases"], v["metrics"]) for v in body["versions"]] == [
        (2, ["champion"], {"ap": 0.75}),
        (1, [], {"ap": 0.7}),
    ]
    assert body["versions"][0]["created_at"] == "2026-11-02T09:00:00Z"
    assert body["aliases"]["champion"] | {"moved_at_ms": 0} == {
        "version": 2, "number": 2, "moved_at_ms": 0, "who": "airflow", "why": "weekly", "share": None,
    }  # fmt: skip


async def test_a_version_whose_bytes_are_gone_or_changed_has_no_metrics(client, app, registry):
    publish(registry, ap=0.7)
    other = publish(registry, ap=0.8)
    app.state.services.redis.delete(registry.names.bundle(2))
    app.state.services.redis.set(registry.names.bundle(1), other.to_bytes())
    body = (await client.get("/v1/card_fraud/models")).json()
    assert [v["metrics"] for v in body["versions"]] == [None, None]


async def test_no_models_are_an_empty_list(client):
    assert (await client.get("/v1/card_fraud/models")).json() == {
        "usecase": "card_fraud", "aliases": {}, "versions": [],
    }  # fmt: skip


async def test_models_without_redis_are_a_problem(client, app):
    lose_redis(app)
    assert "readyz" in is_problem(await client.get("/v1/card_fraud/models"), 503)["detail"]


async def test_a_model_card_is_shown_by_version_and_alias_without_script(client, app, registry):
    publish(registry)
    app.state.services.redis.set(registry.names.card(1), packed("<!doctype html><h1>card of 1 · é</h1>"))
    for version in ("1", "champion"):
        answer = await client.get(f"/v1/card_fraud/models/{version}/card")
        assert answer.status_code == 200, answer.text
        assert answer.text == "<!doctype html><h1>card of 1 · é</h1>"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("version", ["2", "shadow", "-1", "a b", "9" * 100, "²"])
async def test_a_card_that_is_not_there_is_a_problem_that_names_the_command(client, registry, version):
    publish(registry)
    body = is_problem(await client.get(f"/v1/card_fraud/models/{quote(version, safe='')}/card"), 404)
    assert "riskflow report" in body["detail"]


@pytest.mark.parametrize("stored", [b"no card", zlib.compress(b"\xff"), packed("<h1>cut off</h1>")[:-6]])
async def test_a_card_that_is_corrupted_is_a_problem(client, app, registry, stored):
    app.state.services.redis.set(registry.names.card(1), stored)
    assert "card" in is_problem(await client.get("/v1/card_fraud/models/1/card"), 503)["detail"]


async def test_healthz_says_alive_whatever_else_is_missing(client):
    assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_ready_when_everything_is_there(client, served, registry):
    publish(registry)
    ready(served)
    answer = await client.get("/readyz")
    assert answer.status_code == 200, answer.text
    assert [c["name"] for c in answer.json()["checks"]] == [
        "kafka",
        "redis",
        "card_fraud.scores",
        "card_fraud.champion",
    ]


async def test_not_ready_says_each_reason(client, app, served):
    body = is_problem(await client.get("/readyz"), 503)
    found = {c["name"]: c for c in body["checks"]}
    assert not any(found[name]["ok"] for name in ("kafka", "card_fraud.scores", "card_fraud.champion"))
    assert "riskflow models rules --usecase card_fraud" in found["card_fraud.champion"]["detail"]
    ready(served)
    lose_redis(app)
    body = is_problem(await client.get("/readyz"), 503)
    assert {c["name"]: c["ok"] for c in body["checks"]} == {"kafka": True, "redis": False, "card_fraud.scores": True}


async def test_a_use_case_that_is_not_set_up_holds_nothing_back_but_is_not_enough(client, served):
    served.progress.failed(NotReady("topic card_fraud.scores is missing"), away=False, missing=True)
    body = is_problem(await client.get("/readyz"), 503)
    assert [c["name"] for c in body["checks"] if not c["ok"]] == ["use cases"]


async def test_metrics_name_routes_and_never_ids(client, served):
    put(served.store, "tx-secret")
    await client.get("/v1/card_fraud/scores/tx-secret")
    await client.get("/nothing/tx-secret")
    text = (await client.get("/metrics")).text
    assert 'route="/v1/{usecase}/scores/{event_id}",status="200"' in text
    assert 'route="other",status="404"' in text
    assert 'risk_serving_behind_seconds{use_case="card_fraud"} NaN' in text
    assert "tx-secret" not in text


async def test_version_names_code_and_models(client, registry):
    publish(registry)
    body = (await client.get("/version")).json()
    assert (body["api"], body["models"]) == ("v1", {"card_fraud": 1})


async def test_the_document_has_stable_ids_examples_and_problems(client):
    document = (await client.get("/openapi.json")).json()
    operations = [o for methods in document["paths"].values() for o in methods.values()]
    assert {o["operationId"] for o in operations} == {
        "get_score", "list_models", "get_card", "get_health", "get_readiness", "get_metrics", "get_version",
    }  # fmt: skip
    for status, response in (pair for o in operations for pair in o["responses"].items()):
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"]
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert schemas["Score"]["examples"][0]["event_id"] == "tx-000042"


async def test_the_examples_are_what_is_answered(client):
    from serving import schemas

    for model in (schemas.Score, schemas.Models, schemas.Readiness, schemas.About):
        example = model.model_config["json_schema_extra"]["examples"][0]
        assert set(model.model_validate(example).model_dump()) == set(example)


async def test_the_page_of_docs_needs_no_other_server(client):
    page = (await client.get("/docs")).text
    assert "/v1/card_fraud/scores/tx-000042" in page
    assert "get_score" in page
    assert not any(foreign in page for foreign in ("<script", "https://", "<link"))


async def test_the_limit_of_ids_is_that_of_events():
    from riskflow.events import MAX_ID_CHARS

    assert routes.MAX_ID_CHARS == MAX_ID_CHARS


def test_nothing_is_opened_before_the_start(tmp_path):
    create_app(load(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_serving_does_not_know_stream_or_batch():
    source = "".join(p.read_text() for p in Path(routes.__file__).parent.glob("*.py"))
    assert not any(f"{word} {package}" in source for word in ("import", "from") for package in ("stream", "batch"))
