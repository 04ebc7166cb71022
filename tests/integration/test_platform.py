"""The local platform: it starts, tells where it is, moves out of the way, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from batch.bundling import build_bundle
from ops import kafka, local, ports, process, redis
from ops.process import Identity
from riskflow.keys import load_private_key, make_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import Policy
from riskflow.registry import Registry
from riskflow.settings import settings
from riskflow.usecase import load_usecase

pytestmark = pytest.mark.services

RISKFLOW = [sys.executable, "-m", "cli.main"]
PARENT = """
import sys, time
from pathlib import Path
from typing import Any
from ops import local
with local.running(Path(sys.argv[1]), airflow=False, usual_ports=False):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home that nothing else uses, cleared of processes afterwards."""
    for service in local.SERVICES.values():
        monkeypatch.delenv(service.variable, raising=False)
    monkeypatch.setenv("RISKFLOW_HOME", str(tmp_path))
    yield tmp_path
    local.down(tmp_path)


def riskflow(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([*RISKFLOW, *words], env=environment, capture_output=True, text=True, check=False)


def doctor(**variables: str) -> dict[str, dict[str, Any]]:
    """The checks of a doctor that found something, by name."""
    told = riskflow("doctor", "--json", **variables)
    assert told.returncode == 3, told.stderr
    return {check["name"]: check for check in json.loads(told.stdout)}


def living(home: Path) -> list[str]:
    """Every process that works in this home or names it on its command line, however it came to be."""
    return [" ".join(p.info["cmdline"]) for p in psutil.process_iter(["cmdline", "cwd", "status"]) if _belongs(p, home)]


def _belongs(candidate: psutil.Process, home: Path) -> bool:
    info = candidate.info
    words = [info["cwd"] or "", *(info["cmdline"] or [])]
    return info["status"] != psutil.STATUS_ZOMBIE and any(str(home) in word for word in words)


def eventually(holds: Callable[[], bool], within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds()


def test_up_status_down(home: Path) -> None:
    started = riskflow("up", "--no-airflow")
    assert started.returncode == 0, started.stderr
    written = (home / "services.env").read_text().split()
    assert set(written) <= set(started.stdout.split())

    pids = [state.pids for state in local.status(home)]
    again = riskflow("up", "--no-airflow")
    assert again.returncode == 0
    assert "kafka runs already" in again.stderr
    assert [state.pids for state in local.status(home)] == pids

    shown = {state["name"]: state for state in json.loads(riskflow("status", "--json").stdout)}
    assert shown["kafka"]["running"]
    assert shown["redis"]["running"]
    assert shown["airflow"]["origin"] == "none"
    assert not [command for command in living(home) if "ops.guard" in command]

    assert riskflow("down").returncode == 0
    assert living(home) == []
    assert not (home / "services.env").exists()
    assert "nothing runs" in riskflow("down").stderr


def test_taken_ports_are_left_to_their_owner(home: Path) -> None:
    with socket.create_server((ports.HOST, 0)) as other:
        taken = other.getsockname()[1]
        assert not ports.free(taken)
        assert ports.choose(taken) != taken


def test_a_port_lost_between_choice_and_use_is_replaced(
    services: local.Services, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the taken port even a healthy Redis answers: it must not be mistaken for ours."""
    monkeypatch.setenv("RISKFLOW_KAFKA", services.kafka)
    taken = by_name(services.home)["redis"].address.rsplit(":")[-1].split("/")[0]
    offered = iter([int(taken)])
    free = ports.choose()
    monkeypatch.setattr(ports, "choose", lambda usual=None: next(offered, free))
    with local.running(home, airflow=False) as found:
        assert found.redis_url == redis.address(free)
        assert redis.problem(found.redis_url) is None


def test_one_service_dies_and_comes_back_where_it_was(services: local.Services) -> None:
    with redis.client(services.redis_url) as client:
        client.set("kept", "yes")
        time.sleep(1.5)  # the file is synced each second
        for name in ("redis", "kafka"):
            local.kill(services.home, name)
            assert by_name(services.home)[name].pids == []
            local.start(services.home, name)
        assert client.get("kept") == "yes"
    assert kafka.problem(services.kafka) is None


def test_a_paused_service_does_not_answer_until_it_is_resumed(services: local.Services) -> None:
    local.pause(services.home, "redis")
    assert "imeout" in (redis.problem(services.redis_url) or "")
    local.resume(services.home, "redis")
    assert redis.problem(services.redis_url) is None


def test_a_killed_parent_takes_its_services_along(services: local.Services, home: Path) -> None:
    environment = {**os.environ, "RISKFLOW_KAFKA": services.kafka}  # only Redis is started: quick
    command = [sys.executable, "-c", PARENT, str(home)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
    assert eventually(lambda: not living(home)), living(home)
    assert process.records(home) == {}
    assert not (home / "services.env").exists()


def test_up_that_is_killed_half_way_leaves_nothing(home: Path) -> None:
    with subprocess.Popen([*RISKFLOW, "up", "--no-airflow"], stderr=subprocess.DEVNULL) as command:
        assert eventually(lambda: (home / "run" / "redis.json").exists())
        command.kill()
    assert eventually(lambda: not living(home)), living(home)


def test_ctrl_c_during_up_leaves_nothing(home: Path) -> None:
    with subprocess.Popen([*RISKFLOW, "up", "--no-airflow"], stderr=subprocess.DEVNULL) as command:
        assert eventually(lambda: (home / "run" / "redis.json").exists())
        command.send_signal(signal.SIGINT)
    assert command.returncode == 130
    assert living(home) == []


def test_a_stranger_with_a_recycled_id_is_left_alone(home: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        now = Identity.of(stranger.pid)
        process.write(home, process.Record("redis", Identity(now.pid, now.started - 3600)))
        assert local.down(home) == ["redis"]
        assert stranger.poll() is None
        stranger.kill()


def test_a_given_address_replaces_the_local_service(services: local.Services, home: Path) -> None:
    given = {"RISKFLOW_KAFKA": services.kafka, "RISKFLOW_REDIS_URL": services.redis_url}
    started = riskflow("up", "--no-airflow", **given)
    assert started.returncode == 0, started.stderr
    assert "kafka is given by RISKFLOW_KAFKA" in started.stderr
    assert process.records(home) == {}


def test_a_given_address_that_does_not_answer_is_named(home: Path) -> None:
    nobody = f"{ports.HOST}:{ports.choose()}"
    failed = riskflow("up", "--no-airflow", RISKFLOW_KAFKA=nobody)
    assert failed.returncode == 3
    assert f"RISKFLOW_KAFKA is set in the environment and does not answer: {nobody}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert living(home) == []


def test_a_wrong_setting_is_told_with_key_value_and_expectation(home: Path) -> None:
    failed = riskflow("doctor", RISKFLOW_KAFKA="here")
    assert failed.returncode == 2
    assert "RISKFLOW_KAFKA='here'" in failed.stderr
    assert "host:port" in failed.stderr


def test_doctor_without_services_names_the_repair(home: Path) -> None:
    nobody = f"{ports.HOST}:{ports.choose()}"
    (home / "services.env").write_text(f"RISKFLOW_KAFKA={nobody}\n")  # as after a reboot
    told = riskflow("doctor", RISKFLOW_REDIS_URL=f"redis://{nobody}")
    assert told.returncode == 3
    kafka_line, _, after = told.stdout.partition("✘ Kafka ")[2].partition("\n")
    assert nobody in kafka_line
    assert after.split("\n")[0].endswith("repair: riskflow up")
    assert "unset RISKFLOW_REDIS_URL" in told.stdout


def test_doctor_sees_a_redis_that_may_forget(services: local.Services) -> None:
    with redis.client(services.redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            checks = doctor()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert checks["Redis"]["ok"]
    assert not checks["Redis eviction"]["ok"]
    assert checks["Redis eviction"]["repair"].endswith("config set maxmemory-policy noeviction")


def test_doctor_follows_a_use_case_from_nothing_to_topics_and_heads(services: local.Services) -> None:
    """Each repair that doctor names is run as it stands, and repairs."""
    prefix = {"RISKFLOW_TOPIC_PREFIX": "doctor.", "RISKFLOW_PARTITIONS": "2"}
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=services.kafka)) as admin:
        admin.create_topics([NewTopic("doctor.card_fraud.scores", 2, 1)])  # by the producer's clock: Kafka's default

    before = doctor(**prefix)
    assert not before["card_fraud: topics"]["ok"]
    assert before["card_fraud: topics"]["repair"] == "riskflow topics card_fraud"
    assert riskflow("topics", "card_fraud", **prefix).returncode == 0

    after = doctor(**prefix)
    assert after["card_fraud: topics"]["ok"]
    assert after["card_fraud: heads"]["ok"]
    assert after["card_fraud: broker time"]["value"] == "doctor.card_fraud.scores has CreateTime"
    subprocess.run(shlex.split(after["card_fraud: broker time"]["repair"]), capture_output=True, check=True)

    repaired = doctor(**prefix)
    assert repaired["card_fraud: broker time"]["ok"]
    assert "no published model" in repaired["card_fraud: champion"]["value"]
    assert repaired["card_fraud: champion"]["repair"] == "riskflow models rules --usecase card_fraud"
    assert riskflow("keys", **prefix).returncode == 0
    assert riskflow(*shlex.split(repaired["card_fraud: champion"]["repair"])[1:], **prefix).returncode == 0
    told = riskflow("doctor", "--json", **prefix)
    assert {c["name"]: c["ok"] for c in json.loads(told.stdout)}["card_fraud: champion"]


def test_doctor_names_a_use_case_that_cannot_be_read(services: local.Services, tmp_path: Path) -> None:
    shutil.copytree(settings().usecases / "card_fraud", tmp_path / "usecases" / "broken")
    with (tmp_path / "usecases" / "broken" / "features.py").open("a") as file:
        file.write("\ndef broken(\n")
    found = doctor(RISKFLOW_USECASES=str(tmp_path / "usecases"))
    assert "features.py" in found["broken: files"]["value"]
    assert found["broken: files"]["repair"] == "riskflow lint broken"
    assert found["Kafka"]["ok"]


def test_a_worker_of_no_use_case_ends_at_once_and_says_why(services: local.Services) -> None:
    told = riskflow("worker", "nope")
    assert told.returncode == 3
    assert "use case 'nope': no" in told.stderr
    assert "Traceback" not in told.stderr


def test_doctor_trusts_only_a_champion_that_workers_would_load(services: local.Services) -> None:
    prefix = {"RISKFLOW_TOPIC_PREFIX": "champion."}
    make_keys(settings().keys_folder)
    plan = Plan.of(load_usecase("card_fraud", settings().usecases))
    rules_only = Policy.load(plan.usecase.folder / "policy.yaml").start()
    with redis.client(services.redis_url, text=False) as client:
        registry = Registry(client, Names("card_fraud", prefix="champion."))
        bundle = build_bundle(plan, models={}, policy_numbers=rules_only)
        registry.publish(bundle, load_private_key(settings().keys_folder), who="test", why="test")
        assert doctor(**prefix)["card_fraud: champion"]["value"].startswith("version 1")

        client.set(registry.names.bundle(1), registry.raw(1)[:-20] + bytes(20))
        told = doctor(**prefix)["card_fraud: champion"]
    assert not told["ok"]
    assert told["repair"] == "riskflow models rules --usecase card_fraud"


def by_name(home: Path) -> dict[str, local.State]:
    return {state.name: state for state in local.status(home)}
