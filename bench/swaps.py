"""What a swap of the model costs the events that come meanwhile, beside those that come at rest, in one run.

    .venv/bin/python -m bench.swaps [--rate 200] [--swaps 10]

A bundle is published every few seconds while payments come at a steady rate. Those that arrive from the moment of the
publication until a second after the first score by the new bundle are *around a swap*. Both moments of an event are the
broker's timestamps.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from typing import Any

import numpy as np

from batch.produce import send
from bench.latency import CUSTOMERS, FIRST, TERMINALS, everything, stamps
from bench.load import paced, payments
from bench.prepare import names_of, plan_of, prepared, publish
from riskflow.bundle import Bundle
from riskflow.connect import connect
from riskflow.registry import Registry
from riskflow.settings import settings
from stream import supervise

EVERY_S, WARM_S, AFTER_MS = 5.0, 10.0, 1_000.0


def swapping(usecase: str, swaps: int, published_ms: list[float]) -> threading.Thread:
    """Publishes the champion again and again under new versions; each is verified and loaded like any other."""
    plan = plan_of(usecase)
    registry = Registry(connect(settings().redis_url), names_of(plan))
    champion = registry.champion()
    assert champion is not None
    bundle = Bundle.from_bytes(registry.raw(champion.version))

    def work() -> None:
        time.sleep(WARM_S)
        for _ in range(swaps):
            published_ms.append(time.time() * 1000)
            publish(plan, bundle)
            time.sleep(EVERY_S)

    return threading.Thread(target=work, daemon=True)


def measure(usecase: str, rate: int, swaps: int, partitions: int) -> dict[str, Any]:
    """Latencies at rest and around swaps; what a swap changed."""
    with prepared(usecase, partitions) as names:
        conf = settings()
        seconds = WARM_S + swaps * EVERY_S
        messages = payments(names.feed("events"), FIRST + int(rate * seconds), CUSTOMERS, TERMINALS)
        with (conf.home / "worker.log").open("ab") as log:
            worker = supervise.start(usecase, 0, stderr=log)
        try:
            first = paced(messages, rate, FIRST / rate)
            send(first, conf.kafka)
            stamps(conf.kafka, names.scores, {m.key for m in first if m.key}, 60)
            published_ms: list[float] = []
            publisher = swapping(usecase, swaps, published_ms)
            measured = paced(messages, rate, seconds)
            publisher.start()
            send(measured, conf.kafka)
            publisher.join()
            return compared(conf.kafka, names, {m.key for m in measured if m.key}, published_ms)
        finally:
            worker.terminate()
            worker.wait(30)


def compared(bootstrap: str, names: Any, wanted: set[bytes], published_ms: list[float]) -> dict[str, Any]:
    """The two groups of events."""
    came = stamps(bootstrap, names.feed("events"), wanted, 30)
    stamps(bootstrap, names.scores, wanted, 30)
    scores = {r.key: (r.timestamp, json.loads(r.value)["bundle"]) for r in everything(bootstrap, names.scores)}
    keys = [k for k in came if k in scores]
    at = np.array([came[k] for k in keys], np.float64)
    left = np.array([scores[k][0] for k in keys], np.float64)
    bundle = np.array([scores[k][1] for k in keys])
    around = np.zeros(len(keys), np.bool_)
    until_live = []
    for moment in published_ms:
        before = bundle[left < moment].max(initial=0)
        live = left[bundle > before].min(initial=np.inf)
        until_live.append(live - moment)
        around |= (at >= moment) & (at < live + AFTER_MS)
    warm = at > at.min() + 0.5 * WARM_S * 1000
    took = left - at
    out = {name: _shares(took[group & warm]) for name, group in (("at_rest", ~around), ("around_swaps", around))}
    p99 = [out[name]["p99_ms"] for name in ("around_swaps", "at_rest")]
    return {
        **out, "p99_ratio": round(p99[0] / p99[1], 2), "swaps": len(published_ms), "bundles": len(set(bundle.tolist())),
        "until_first_score_p50_ms": round(float(np.median(until_live))), "missing": len(wanted) - len(keys),
    }  # fmt: skip


def _shares(took: Any) -> dict[str, float]:
    shares = {f"p{q}_ms": float(np.percentile(took, q)) for q in (50, 95, 99)}
    return {"events": len(took), **shares, "max_ms": float(took.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--usecase", default="card_fraud")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(measure(args.usecase, args.rate, args.swaps, args.partitions)))


if __name__ == "__main__":
    main()
