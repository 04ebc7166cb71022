"""The control run: stock Faust under the same kills, so that it is known what the suite can see."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from chaos.fleet import wait_until
from chaos.observer import Logs
from chaos.platform import platform
from riskflow.settings import PROJECT, settings

TOPIC, PARTITIONS = "payments", 4
CUSTOMERS, TERMINALS = 50, 20
PATIENCE_S = 180.0
QUIET_S = 90.0  # without an output: the session of a killed worker is 60 s, and all is done that will be


def control(events: int, kills: int, seed: int, per_s: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Sends events to the Faust job, kills it while they flow, and counts what came out."""
    with platform(tell) as place:
        _make_topics()
        world = payments(events, seed)
        job = _Job(place.home)
        try:
            kills_counted = _play(job, world, kills, random.Random(seed), per_s, tell)
        finally:
            job.end()
        return {"events": events, "kills_counted": kills_counted, "seed": seed, **count(world, _outputs())}


def payments(events: int, seed: int) -> list[dict[str, Any]]:
    """Nothing late, nothing twice: the easiest log there is."""
    rng = np.random.default_rng(seed)
    customer, terminal = rng.integers(0, CUSTOMERS, events), rng.integers(0, TERMINALS, events)
    return [
        {"event_id": f"e{i}", "customer_id": f"c{customer[i]}", "terminal_id": f"t{terminal[i]}", "amount": 1.0}
        for i in range(events)
    ]


def count(world: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, int]:
    """Events without and with several outputs, and customers and terminals whose last count is not the truth."""
    times = Counter(o["event_id"] for o in outputs)
    out = {
        "outputs": len(outputs),
        "missing": sum(e["event_id"] not in times for e in world),
        "sent_again": sum(n > 1 for n in times.values()),
        "sent_with_other_counts": _other_counts(outputs),
    }
    for entity in ("customer", "terminal"):
        truth = Counter(e[f"{entity}_id"] for e in world)
        last = {o[f"{entity}_id"]: 0 for o in outputs}
        for o in outputs:
            last[o[f"{entity}_id"]] = max(last[o[f"{entity}_id"]], o[f"{entity}_count"])
        out[f"{entity}s_counted_too_high"] = sum(last.get(name, 0) > n for name, n in truth.items())
        out[f"{entity}s_counted_too_low"] = sum(last.get(name, 0) < n for name, n in truth.items())
    return out


def _other_counts(outputs: list[dict[str, Any]]) -> int:
    said: dict[str, set[tuple[int, int]]] = {}
    for o in outputs:
        said.setdefault(o["event_id"], set()).add((o["customer_count"], o["terminal_count"]))
    return sum(len(values) > 1 for values in said.values())


def _make_topics() -> None:
    compacted = {"cleanup.policy": "compact"}
    tables = [f"{TOPIC}-control-{table}-changelog" for table in ("customers", "terminals")]
    plain = [TOPIC, f"{TOPIC}-by-terminal", f"{TOPIC}-outputs"]
    admin = KafkaAdminClient(bootstrap_servers=settings().kafka)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in plain])
    admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=compacted) for name in tables])
    admin.wait_for_topics([*plain, *tables])
    admin.close()


class _Job:
    """One process of the Faust job, started again after each kill."""

    def __init__(self, home: Path) -> None:
        self._log = (home / "control.log").open("wb")
        self._environment = os.environ | {
            "CONTROL_TOPIC": TOPIC, "CONTROL_KAFKA": settings().kafka, "CONTROL_DATA": str(home / "control")
        }  # fmt: skip
        self._process = self._start()

    def kill_and_start(self) -> None:
        self._kill()
        self._process = self._start()

    def end(self) -> None:
        self._kill()
        self._log.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "faust", "-A", "chaos.control_faust", "worker", "-l", "warn", "--without-web"]
        return subprocess.Popen(command, cwd=PROJECT, env=self._environment, stdout=self._log, stderr=self._log)


def _play(
    job: _Job, world: list[dict[str, Any]], kills: int, rng: random.Random, per_s: float, tell: Callable[[str], None]
) -> int:
    """Kills while events flow; one counts if something came out since the last start."""
    sender = threading.Thread(target=_send, args=(world, per_s), daemon=True)
    sender.start()
    for i in range(kills):
        before = _ends()
        wait_until(lambda before=before: _ends() > before, PATIENCE_S, "an output of the control")
        time.sleep(rng.uniform(0.0, 2.0))
        job.kill_and_start()
        tell(f"control: kill {i + 1} of {kills}, {_ends()} outputs")
    sender.join()
    _wait_quiet()
    return kills


def _send(world: list[dict[str, Any]], per_s: float) -> None:
    producer = KafkaProducer(bootstrap_servers=settings().kafka, linger_ms=5)
    due_s = time.monotonic()
    for event in world:
        due_s += 1 / per_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        producer.send(TOPIC, key=event["customer_id"].encode(), value=json.dumps(event).encode())
    producer.flush()
    producer.close()


def _wait_quiet() -> None:
    """Until nothing comes any more; a worker that was killed joins again only when its session has ended."""
    seen, since = _ends(), time.monotonic()
    while time.monotonic() - since < QUIET_S:
        time.sleep(1.0)
        now = _ends()
        if now != seen:
            seen, since = now, time.monotonic()


def _ends() -> int:
    return sum(end for _, end in Logs(settings().kafka).partitions(f"{TOPIC}-outputs").values())


def _outputs() -> list[dict[str, Any]]:
    return [json.loads(record.value) for _, record in Logs(settings().kafka).records(f"{TOPIC}-outputs")]
