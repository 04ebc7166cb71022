"""The demo, step by step. Each function does what its title in STEPS says and returns what to say about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cli.demo import processes
from cli.demo.stage import Stage
from cli.demo.town import DAY_MS

if TYPE_CHECKING:
    from batch.retrain import Run

QUICK = "logistic_regression"  # the first model; retraining races all candidates
READY_S = 120.0
SWAP_S = 60.0
DRAIN_S = 60.0


def begin(stage: Stage) -> str:
    """Services in this thread; the town is invented and the kernel compiled in others."""
    from cli.common import load_plan
    from cli.demo import town
    from ops import local
    from riskflow.warmup import warm_up

    options = stage.options
    stage.plan = load_plan(options.usecase)
    with ThreadPoolExecutor(2) as pool:
        invented = pool.submit(town.invent, options.days, options.customers, options.rate, options.seed)
        compiled = pool.submit(warm_up, stage.plan)
        stage.services = stage.ending.enter_context(local.running(stage.home, airflow=False))
        stage.ending.callback(local.down, stage.home)
        stage.town = invented.result()
        compiled.result()
    _publish_addresses(stage)
    return f"{stage.services.kafka}, {stage.services.redis_url}"


def keys(stage: Stage) -> str:
    from riskflow.hashkey import make_hash_key
    from riskflow.keys import make_keys

    make_keys(stage.conf.keys_folder)
    make_hash_key(stage.conf.keys_folder)
    return f"the private one stays in {stage.conf.keys_folder}"


def rebuild(stage: Stage) -> str:
    """Topics, records of everybody, and heads that begin where the history ends."""
    from batch import topics
    from batch.rebuild import rebuild as fold
    from riskflow.names import Names

    events, labels = stage.town.write_history(stage.home / "history")
    topics.make(stage.plan, stage.conf)
    done = fold(stage.plan, stage.conf, events=events, labels=labels)
    stage.names = Names(stage.plan.name, done.generation, stage.conf.topic_prefix)
    payments = len(stage.town.past("events", "occurred_at_ms"))
    stage.facts["history"] = f"{payments:,} payments of {stage.options.days} days, {done.rows - payments:,} labels"
    people = ", ".join(f"{n:,} by {stage_name}" for stage_name, n in done.records.items())
    return f"{stage.facts['history']}; records: {people} ({done.seconds:.1f} s)"


def start_worker(stage: Stage) -> str:
    """They import and compile while the first model learns; the worker says that it waits for a bundle."""
    from ops import ports

    metrics, web = ports.choose(9100), ports.choose(8000)
    stage.addresses["metrics"] = f"http://{ports.HOST}:{metrics}/metrics"
    stage.addresses["serving"] = f"http://{ports.HOST}:{web}"
    stage.worker = processes.launch(stage.home, "worker", "worker", RISKFLOW_METRICS_PORT=str(metrics))
    processes.launch(stage.home, "serve", "serve", "--port", str(web))
    return stage.addresses["serving"]


def first_bundle(stage: Stage) -> str:
    """From the history alone, which the lake holds since the rebuild."""
    from batch.local_chain import train_here

    done = train_here(_modest_run(stage), _nothing, who="demo", why="first bundle")
    stage.facts["first bundle"] = _figures(done)
    return stage.facts["first bundle"]


def _modest_run(stage: Stage) -> Run:
    """One quick candidate on half of the span. It ends a week early: what the next one is judged on stays unseen."""
    from dataclasses import replace

    import msgspec

    from batch.retrain import Run

    run = Run.of(stage.plan, stage.conf, "first")
    half, older = run.pipeline.span_ms // 2 // DAY_MS, run.pipeline.maturity_ms // DAY_MS + 7
    chosen = [QUICK] if QUICK in run.candidates else run.candidates[:1]
    file = msgspec.structs.replace(run.pipeline.file, candidates=chosen, span=f"{half}d", maturity=f"{older}d")
    return replace(run, pipeline=replace(run.pipeline, file=file))


def wait_ready(stage: Stage) -> str:
    """The worker owns every partition and has loaded the bundle."""
    url, wanted = stage.addresses["metrics"], f'risk_worker_ready{{use_case="{stage.plan.name}"}} 1.0'
    heads = _heads(stage)
    processes.wait_for(
        "the worker", lambda: wanted in (processes.fetched(url) or "") and _claimed(stage, heads),
        READY_S, home=stage.home, alive=stage.worker,
    )  # fmt: skip
    return f"{len(heads)} partitions of {len(stage.plan.entities) + len(stage.plan.usecase.feeds)} stages"


def stream(stage: Stage) -> str:
    """Payments and labels from now on; the observer stands at the topics' ends before the first one."""
    from cli.demo.observer import Observer
    from cli.demo.sender import Sender

    stage.observer = Observer(stage.conf.kafka, stage.names)
    stage.sender = Sender(stage.conf.kafka, stage.names, stage.town.stream(stage.options.rate))
    stage.observer.start()
    stage.ending.callback(stage.observer.stop)
    stage.ending.callback(stage.sender.end)
    stage.sender.start()
    stage.streaming_since = time.monotonic()
    stage.ending.enter_context(stage.screen.streaming(stage.observer.view))
    watch(stage, lambda: len(stage.observer.scored) > 0, READY_S, "the first score")
    stage.facts["first live score"] = f"{stage.passed_s:.0f} s after the start"
    return f"{stage.options.rate:.0f} a second; first score {stage.facts['first live score']}"


def start_airflow(stage: Stage) -> str:
    """Scheduler, DAG processor and API server, while events flow."""
    if not stage.options.airflow:
        return "left out (--no-airflow): the same steps run without it"
    keeper = processes.Keeper(stage.home)
    stage.ending.callback(keeper.stop)
    with ThreadPoolExecutor(1) as pool:
        address = pool.submit(keeper.address)
        watch(stage, address.done, READY_S * 2, "Airflow")
    os.environ["RISKFLOW_AIRFLOW_URL"] = stage.addresses["airflow"] = address.result()
    return stage.addresses["airflow"]


def retrain(stage: Stage) -> str:
    """`riskflow retrain`, over Airflow's REST API or here; on what has streamed by now."""
    words = ["retrain", stage.plan.name, "--why", "the demo has seen new payments", "--json"]
    command = processes.Command(words + ([] if stage.options.airflow else ["--local"]), stage.screen.remark)
    stage.ending.callback(command.stop)
    watch(stage, lambda: not command.running(), 900, "the retraining")
    stage.published = command.result()
    stage.facts["second bundle"] = _figures(stage.published)
    return stage.facts["second bundle"]


def swap(stage: Stage) -> str:
    """From the moment the alias moved to the first score by the new version, while events flow."""
    import redis

    from riskflow.registry import Registry

    version = int(stage.published["version"])
    moves = Registry(redis.Redis.from_url(stage.conf.redis_url), stage.names).history("champion")
    moved_ms = next(move.at_ms for move in reversed(moves) if move.version == version)
    watch(stage, lambda: version in stage.observer.first_ms, SWAP_S, f"a score by version {version}")
    stage.swap_s = round((stage.observer.first_ms[version] - moved_ms) / 1000, 3)
    return f"──── bundle {version} ──── first score {stage.swap_s:.2f} s after publishing"


def stream_on(stage: Stage) -> str:
    """A few seconds with the new model, and as long as was asked for."""
    until = max(time.monotonic() + 5, stage.streaming_since + stage.options.seconds)
    watch(stage, lambda: time.monotonic() > until, 3600, "the end")
    return f"{len(stage.sender.events):,} payments, {stage.sender.labels:,} labels"


def drain(stage: Stage) -> str:
    """Sending ends; every payment gets its score, or is lost."""
    stage.sender.stop()
    wanted, observer = stage.sender.events, stage.observer
    deadline = time.monotonic() + DRAIN_S
    while len(observer.scored) < len(wanted) and time.monotonic() < deadline:
        stage.screen.tick()
        time.sleep(0.2)
    time.sleep(1.0)  # for scores that come twice
    return f"{len(observer.scored):,} scores"


def archive(stage: Stage) -> str:
    from batch.archive import archive as bring

    done = bring(stage.plan, stage.conf)
    stage.facts["lake"] = f"{done.added:,} messages added in {done.seconds:.1f} s, {stage.conf.lake_folder}"
    return stage.facts["lake"]


def compare(stage: Stage) -> str:
    """Archived rows against a replay in their recorded positions, and every record in Redis, bit for bit."""
    from batch.parity import parity

    found = parity(stage.plan, stage.conf, records=True)
    wrong = found.mismatches + found.missing + found.extra + found.order_errors
    stage.parity_mismatches = wrong + (found.records_differing or 0)
    return (
        f"{found.rows:,} rows, {len(found.features)} features, {found.records:,} records: "
        f"{stage.parity_mismatches} mismatches"
    )


STEPS: list[tuple[str, Callable[[Stage], str]]] = [
    ("Kafka and Redis start while a town is invented", begin),
    ("Keys that sign bundles", keys),
    ("The past goes through the kernel", rebuild),
    ("A worker and the web API start", start_worker),
    ("A first model learns", first_bundle),
    ("The worker is ready", wait_ready),
    ("Payments stream", stream),
    ("Airflow starts", start_airflow),
    ("It learns again", retrain),
    ("The stream swaps models", swap),
    ("Payments go on", stream_on),
    ("The stream runs dry", drain),
    ("Everything is archived", archive),
    ("Parity", compare),
]


def watch(stage: Stage, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Keeps the screen alive until something has happened; whatever stops the stream is told."""
    from riskflow.errors import NotReady

    deadline = time.monotonic() + timeout_s
    while not condition():
        stage.sender.check()
        if not stage.worker.alive() or time.monotonic() > deadline:
            who = "the worker ended" if not stage.worker.alive() else f"{what} did not come within {timeout_s:.0f} s"
            raise NotReady(f"{who}. {processes.log_end(stage.home, 'worker')}")
        stage.screen.tick()
        time.sleep(0.1)


def _publish_addresses(stage: Stage) -> None:
    """For this process and for what it starts."""
    from riskflow.settings import settings

    os.environ.update(stage.services.environment())
    settings.cache_clear()
    stage.conf = settings()


def _heads(stage: Stage) -> list[str]:
    from batch.topics import stages

    names, partitions = stage.names, stage.conf.partitions
    return [names.head(name, p) for name, _, _ in stages(stage.plan, names) for p in range(partitions)]


def _claimed(stage: Stage, heads: list[str]) -> bool:
    import redis

    with redis.Redis.from_url(stage.conf.redis_url) as store:
        pipe = store.pipeline(transaction=False)
        for head in heads:
            pipe.hget(head, "epoch")
        return all(int(epoch or 0) > 0 for epoch in pipe.execute())


def _figures(published: dict[str, object]) -> str:
    metrics = published.get("metrics") or {}
    shown = [f"{n} {metrics[n]:.3f}" for n in ("auc", "ap", "cp_at_k") if isinstance(metrics.get(n), float)]
    return f"version {published['version']}, {published.get('candidate')}: {', '.join(shown)}"


def _nothing(*_: str) -> None:
    """Say nothing."""
