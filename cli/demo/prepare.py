"""Before anything flows: services, keys, the past folded into records, a first model, a worker that is ready."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cli.demo import processes
from cli.demo.stage import READY_S, Stage, figures
from cli.demo.town import DAY_MS

if TYPE_CHECKING:
    from batch.run import Run
    from riskflow.settings import Settings

QUICK = "logistic_regression"  # the first model; retraining races all candidates
USUAL_METRICS_PORT, USUAL_WEB_PORT = 9100, 8000


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
    publish_addresses(stage)
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


def start_worker_and_api(stage: Stage) -> str:
    """They import and compile while the first model learns."""
    from ops import ports

    start_worker(stage)
    web = ports.choose(USUAL_WEB_PORT)
    stage.addresses["serving"] = f"http://{ports.HOST}:{web}"
    processes.launch(stage.home, "serve", "serve", "--port", str(web))
    return stage.addresses["serving"]


def start_worker(stage: Stage) -> str:
    """It says that it waits for a bundle."""
    from ops import ports

    metrics = ports.choose(USUAL_METRICS_PORT)
    stage.addresses["metrics"] = f"http://{ports.HOST}:{metrics}/metrics"
    stage.worker = processes.launch(stage.home, "worker", "worker", stage.plan.name, RISKFLOW_METRICS_PORT=str(metrics))
    return stage.addresses["metrics"]


def first_bundle(stage: Stage) -> str:
    """From the history alone, which the lake holds since the rebuild."""
    from batch.local_chain import train_here

    done = train_here(_modest_run(stage), _nothing, who="demo", why="first bundle")
    stage.facts["first bundle"] = figures(done)
    return stage.facts["first bundle"]


def wait_ready(stage: Stage) -> str:
    """The worker owns every partition and has loaded the bundle."""
    url, wanted = stage.addresses["metrics"], f'risk_worker_ready{{use_case="{stage.plan.name}"}} 1.0'
    heads = _heads(stage)
    processes.wait_for(
        "the worker", lambda: wanted in (processes.fetched(url) or "") and _claimed(stage, heads),
        READY_S, home=stage.home, alive=stage.worker,
    )  # fmt: skip
    return f"{len(heads)} partitions of {len(stage.plan.entities) + len(stage.plan.usecase.feeds)} stages"


def _modest_run(stage: Stage) -> Run:
    """One quick candidate on half of the span. It ends a week early: what the next one is judged on stays unseen."""
    from dataclasses import replace

    import msgspec

    from batch.run import Run

    run = Run.of(stage.plan, stage.conf, "first")
    half, older = run.pipeline.span_ms // 2 // DAY_MS, run.pipeline.maturity_ms // DAY_MS + 7
    chosen = [QUICK] if QUICK in run.candidates else run.candidates[:1]
    file = msgspec.structs.replace(run.pipeline.file, candidates=chosen, span=f"{half}d", maturity=f"{older}d")
    return replace(run, pipeline=replace(run.pipeline, file=file))


def publish_addresses(stage: Stage) -> None:
    """For this process and for what it starts."""
    os.environ.update(stage.services.environment())
    stage.conf = fresh_settings()


def fresh_settings() -> Settings:
    """By the environment as it is now."""
    from riskflow.settings import settings

    settings.cache_clear()
    return settings()


def _heads(stage: Stage) -> list[str]:
    from batch.topics import stages

    names, partitions = stage.names, stage.conf.partitions
    return [names.head(name, p) for name, _, _ in stages(stage.plan, names) for p in range(partitions)]


def _claimed(stage: Stage, heads: list[str]) -> bool:
    from riskflow.connect import connect

    with connect(stage.conf.redis_url) as store:
        pipe = store.pipeline(transaction=False)
        for head in heads:
            pipe.hget(head, "epoch")
        return all(int(epoch or 0) > 0 for epoch in pipe.execute())


def _nothing(*_: str) -> None:
    """Say nothing."""
