"""docker-compose.yml and the Dockerfile: the client checks them where it is installed, this file everywhere."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from riskflow.settings import PROJECT

COMPOSE = PROJECT / "docker-compose.yml"
ONE_SHOT = {"init", "airflow-init"}
PROFILES = {
    "core": {"kafka", "redis", "init", "worker", "serving"},
    "airflow": {
        *("kafka", "redis", "init", "postgres", "airflow-init"),
        *("airflow-api", "airflow-scheduler", "airflow-dag-processor"),
    },
    "obs": {"prometheus", "grafana"},
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def has_docker_compose() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_docker_compose(), reason="no docker client with compose here; the other tests parse")
def test_the_client_accepts_it() -> None:
    profiles = [word for name in PROFILES for word in ("--profile", name)]
    command = ["docker", "compose", "-f", str(COMPOSE), *profiles, "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_profiles_hold_what_their_names_promise(compose: dict[str, Any]) -> None:
    for profile, expected in PROFILES.items():
        found = {name for name, service in compose["services"].items() if profile in service["profiles"]}
        assert found == expected


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name


def test_what_keeps_running_has_a_health_check_and_comes_back(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name in ONE_SHOT:
            assert service["restart"] == "no", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_nothing_starts_before_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how["condition"] == wanted, name
            assert set(service["profiles"]) <= set(services[needed]["profiles"]), f"{name} needs {needed}"
    assert "init" in services["worker"]["depends_on"]


def test_ports_are_for_this_machine_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_volumes_are_named_and_all_used(compose: dict[str, Any]) -> None:
    mounted = {volume.split(":")[0] for s in compose["services"].values() for volume in s.get("volumes", [])}
    assert {volume for volume in mounted if not volume.startswith("./")} == set(compose["volumes"])
    for folder in (volume for volume in mounted if volume.startswith("./")):
        assert (PROJECT / folder).exists(), folder


def test_redis_neither_forgets_nor_evicts(compose: dict[str, Any]) -> None:
    command = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_broker_makes_no_topic_by_itself(compose: dict[str, Any]) -> None:
    assert compose["services"]["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_same_kafka_here_and_there(compose: dict[str, Any]) -> None:
    jar = re.search(
        r"<version>([\d.]+)</version>", (PROJECT / "ops/jars/pom.xml").read_text().partition("kafka_2.13")[2]
    )
    assert jar
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{jar.group(1)}"


def test_build_targets_exist(compose: dict[str, Any]) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    built = {s["build"]["target"] for s in compose["services"].values() if "build" in s}
    assert built == {"stream", "airflow"} <= stages


def test_images_install_from_the_locks() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    for lock in re.findall(r"requirements/\w+\.txt|ops/image/\w+\.txt", text):
        assert (PROJECT / lock).exists(), lock
    assert text.count("--require-hashes") == 2


def test_commands_of_the_containers_exist(compose: dict[str, Any]) -> None:
    """Every `riskflow` command that a container runs is one that the command line has."""
    from cli.main import GROUPS

    files = [path for group in GROUPS for path in (PROJECT / "cli").glob(f"{group}*")]
    source = "".join((path / "__init__.py" if path.is_dir() else path).read_text() for path in files)
    commands = {compose["services"][name]["command"][0] for name in ("worker", "serving")}
    commands |= set(re.findall(r"riskflow (\w+)", compose["services"]["init"]["command"][0]))
    missing = {c for c in commands if not re.search(rf"def {c}\(|\"{c}\"", source)}
    assert not missing
