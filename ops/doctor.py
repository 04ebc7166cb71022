"""Is this machine ready? Each check gives a measured value and, when it fails, the one command that repairs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from batch.airflow_client import Airflow
from batch.lint import lint_usecase
from batch.pools import wanted_pools
from ops import airflow, kafka, local, ports, redis
from ops.ready import Usecase, inspect
from ops.service import Service
from riskflow.errors import NotReady, RiskflowError
from riskflow.keys import load_public_keys
from riskflow.settings import PROJECT, settings
from riskflow.usecase import usecase_names

DISK_GIB = 2
OLDEST_JAVA = 17
SHOWN = 3  # of a list of what is missing


@dataclass(frozen=True)
class Check:
    """One line of `riskflow doctor`."""

    name: str
    ok: bool
    value: str
    repair: str


def examine() -> list[Check]:
    """All checks in the order in which they are worth repairing. None raises: what fails is a cross.

    Only a setting with a wrong value ends it at once: nothing can be measured with it.
    """
    settings()
    return [*(_guarded(name, check, repair) for name, check, repair in CHECKS), *_usecase_checks()]


class Unfit(Exception):
    """What was found is not good enough; its text is the value to show. `repair` replaces the check's usual command."""

    def __init__(self, found: str, repair: str | None = None) -> None:
        super().__init__(found)
        self.repair = repair


def _guarded(name: str, check: Callable[[], str], repair: str) -> Check:
    try:
        return Check(name, True, check(), repair)
    except Unfit as found:
        return Check(name, False, str(found), found.repair or repair)
    except RiskflowError as error:
        return Check(name, False, str(error).split("\n")[0], repair)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", repair)


# The machine


def check_java() -> str:
    text = subprocess.run([kafka.java(), "-version"], capture_output=True, text=True, check=True).stderr
    found = re.search(r'version "(\d+)([^"]*)', text)
    if not found or int(found.group(1)) < OLDEST_JAVA:
        raise Unfit(f"{text.splitlines()[0]}; {OLDEST_JAVA} or newer is needed")
    return found.group(1) + found.group(2)


def check_maven() -> str:
    jars = len(list(kafka.JARS.glob("*.jar")))
    found = shutil.which("mvn")
    if not found and not jars:
        raise Unfit("no mvn on the PATH")
    return found or f"not installed, and not needed: {jars} jars are here"


def check_jars() -> str:
    found = [path.stem for path in kafka.JARS.glob("kafka_*.jar")]
    if not found:
        raise Unfit(f"no Kafka in {kafka.JARS}")
    return found[0]


def check_packages() -> str:
    """Installed versions against the lock; a slim image has the lock of the stream."""
    pins = _pins(PROJECT / "requirements" / "all.txt")
    slim = _pins(PROJECT / "requirements" / "stream.txt")
    expected = pins if _installed("apache-airflow") else slim
    wrong = [
        f"{name} {_installed(name)}, not {pin}" for name, pin in expected.items() if _installed(name) not in (pin, "")
    ]
    missing = [name for name in slim if not _installed(name)]
    if wrong or missing:
        raise Unfit(_some([*wrong, *(f"{name} is missing" for name in missing)]))
    return f"{len(expected)} as locked"


def check_croniter() -> str:
    """Faust's crontabs with the newer croniter that Airflow wants: the one override of the environment."""
    from mode.utils.cron import secs_for_next

    wait_s = secs_for_next("*/5 * * * *")
    if not 0 <= wait_s <= 300:
        raise Unfit(f"croniter {version('croniter')}: the next fifth minute would be in {wait_s} s")
    return f"croniter {version('croniter')}"


def check_disk() -> str:
    free = shutil.disk_usage(_existing(settings().home)).free / 2**30
    if free < DISK_GIB:
        raise Unfit(f"{free:.1f} GiB free for {settings().home}; {DISK_GIB} are needed")
    return f"{free:.0f} GiB free"


def check_ports() -> str:
    """A usual port that somebody else holds is worth a word only: `up` finds a free one."""
    mine = {state.address for state in local.status() if state.origin == "local"}
    taken = [
        str(s.usual_port)
        for s in local.SERVICES.values()
        if s.address(s.usual_port) not in mine and not ports.free(s.usual_port)
    ]
    return f"{', '.join(taken)} held by others: free ones will be used" if taken else "usual ones are free, or ours"


def _pins(lock: Path) -> dict[str, str]:
    """Name to version, of the lines of a lock that hold on this Python and system."""
    from packaging.requirements import Requirement

    lines = re.findall(r"^[a-z0-9][^\\\n]*==[^\\\n]*", lock.read_text(), re.MULTILINE)
    wanted = (Requirement(line) for line in lines)
    return {r.name: str(r.specifier).removeprefix("==") for r in wanted if not r.marker or r.marker.evaluate()}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _some(found: list[str]) -> str:
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# The services


def check_kafka() -> str:
    return _answers(kafka.SERVICE, settings().kafka)


def check_redis() -> str:
    return _answers(redis.SERVICE, settings().redis_url)


def check_airflow() -> str:
    """Airflow may be left out on purpose: then it is no fault that it is not there."""
    if not os.environ.get(airflow.SERVICE.variable) and local.status()[-1].origin == "none":
        return "not started (riskflow up starts it)"
    return _answers(airflow.SERVICE, settings().airflow_url)


def check_pools() -> str:
    """A task waits for ever where the pool that its pipeline.yaml names is missing."""
    wanted = wanted_pools(settings().usecases)
    if not wanted or check_airflow().startswith("not started"):
        return "none named" if not wanted else "not asked: Airflow is not started"
    missing = set(wanted) - Airflow.of(settings()).pools()
    if missing:
        raise Unfit(f"missing: {_some(sorted(missing))}")
    return ", ".join(sorted(wanted))


def _answers(service: Service, address: str) -> str:
    found = service.problem(address)
    if found and os.environ.get(service.variable):
        raise Unfit(found, f"start that service, or: unset {service.variable}; riskflow up")
    if found:
        raise Unfit(found)
    return address


def check_redis_policy() -> str:
    """State that is evicted is state that is lost."""
    return _redis_config("maxmemory-policy", "noeviction")


def check_redis_file() -> str:
    """Without the append-only file a restart of Redis forgets everything."""
    return _redis_config("appendonly", "yes")


def _redis_config(key: str, wanted: str) -> str:
    with redis.client(settings().redis_url) as connection:
        found = connection.config_get(key).get(key)
    if found != wanted:
        raise Unfit(f"{key} is {found}", f"redis-cli -u {settings().redis_url} config set {key} {wanted}")
    return f"{key} {found}"


def check_keys() -> str:
    """Without its public half nothing that was signed can be loaded."""
    return f"{len(load_public_keys(settings().keys_folder))} in {settings().keys_folder}"


# The use cases


def check_files(usecase: str) -> str:
    """What stands in events.py, features.py, models.py, policy.yaml, pipeline.yaml and the file in dags/."""
    problems = lint_usecase(usecase, settings().usecases, settings().dags)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise Unfit(f"{problems[0].file}:{problems[0].line}: {problems[0].found}{more}")
    return "events, features, models, policy, pipeline"


def check_topics(usecase: Usecase) -> str:
    missing = [topic for topic in usecase.topics() if topic not in usecase.found_topics()]
    if missing:
        raise Unfit(f"missing: {_some(missing)}")
    return f"{len(usecase.topics())} topics"


def check_broker_time(usecase: Usecase) -> str:
    """Ages and latencies are measured by the broker's clock, not by each producer's; so is what lies in the future."""
    found = usecase.timestamp_types()
    wrong = [topic for topic, kind in found.items() if kind != "LogAppendTime"]
    if wrong or not found:
        shown = _some([f"{topic} has {found[topic]}" for topic in wrong])
        raise Unfit(shown or "no topics", set_broker_time(wrong[0]) if wrong else None)
    return "LogAppendTime"


def check_heads(usecase: Usecase) -> str:
    """Without a head a worker would have to guess where it was, and never does."""
    missing = usecase.missing_heads()
    if missing:
        raise Unfit(f"missing: {_some(missing)}")
    return f"generation {usecase.names.generation}"


def check_champion(usecase: Usecase) -> str:
    version = usecase.champion()
    if version is None:
        raise Unfit("no published model: workers wait. With a history: riskflow train --publish")
    return f"version {version}, signed and fit for this plan"


def set_broker_time(topic: str) -> str:
    """Kafka's own command; its class is in the jars of `make setup`."""
    tool = f"java -cp '{kafka.JARS}/*' kafka.admin.ConfigCommand --bootstrap-server {settings().kafka}"
    return (
        f"{tool} --alter --entity-type topics --entity-name {topic} --add-config message.timestamp.type=LogAppendTime"
    )


def _usecase_checks() -> list[Check]:
    """Each check for each use case; what cannot be read is one cross."""
    lines = []
    for name in usecase_names(settings().usecases):
        files = _guarded(f"{name}: files", partial(check_files, name), f"riskflow lint {name}")
        lines.append(files)
        if not files.ok:
            continue
        try:
            with inspect(name) as usecase:
                lines += [
                    _guarded(f"{name}: {what}", partial(check, usecase), repair.format(name))
                    for what, check, repair in USECASE_CHECKS
                ]
        except NotReady as error:
            lines.append(Check(name, False, str(error), UP))
    return lines


UP = "riskflow up"
CHECKS: list[tuple[str, Callable[[], str], str]] = [
    ("Java", check_java, "apt-get install openjdk-17-jre-headless"),
    ("Maven", check_maven, "apt-get install maven"),
    ("Kafka's jars", check_jars, "make setup"),
    ("packages", check_packages, "make setup"),
    ("crontab guard", check_croniter, "make setup"),
    ("disk", check_disk, "set RISKFLOW_HOME to a folder with more space"),
    ("signing keys", check_keys, "riskflow keys"),
    ("ports", check_ports, UP),
    ("Kafka", check_kafka, UP),
    ("Redis", check_redis, UP),
    ("Redis eviction", check_redis_policy, UP),
    ("Redis file", check_redis_file, UP),
    ("Airflow", check_airflow, UP),
    ("Airflow's pools", check_pools, "riskflow pools"),
]
USECASE_CHECKS: list[tuple[str, Callable[[Usecase], str], str]] = [
    ("topics", check_topics, "riskflow topics {}"),
    ("broker time", check_broker_time, "riskflow topics {}"),
    ("heads", check_heads, "riskflow topics {}"),
    ("champion", check_champion, "riskflow models rules --usecase {}"),
]
