"""A layer trained alone, a warm start and a transfer, through a real registry: what is published can be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from batch import retrain
from batch import topics as batch_topics
from batch.generations import FILES, Generations, Start
from batch.history import history_columns
from batch.replay import replay
from batch.run import Run
from batch.simulate import Shares, simulate
from cli import retrain as command
from ops.local import Services
from riskflow.bundle import Bundle, check_golden, verify
from riskflow.columns import take
from riskflow.declare import Model, Transfer
from riskflow.evaluate import TIME
from riskflow.keys import load_public_keys, make_keys
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import settings
from riskflow.usecase import UseCase
from tests import support
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

START, DAY, DAYS = 1_767_225_600_000, 86_400_000, 60
QUICK = "logistic_regression"


@pytest.fixture(scope="module")
def tables(services: Services) -> Iterator[dict[str, Any]]:
    """A history in files, and a place in Redis of its own."""
    with cases.prefixed("layers."):
        make_keys(settings().keys_folder)
        world = simulate(3, START, DAYS, 260, 90, shares=Shares(stolen_card=0.02, compromised_terminal=0.02))
        yield {"events": world.events, "labels": world.labels}


def run_of(plan: Plan, name: str, layer: str | None = None, **wishes: Any) -> Run:
    run = Run.of(plan, settings(), name)
    search = msgspec.structs.replace(run.pipeline.file.search, **wishes)
    file = msgspec.structs.replace(run.pipeline.file, search=search, candidates=[QUICK])
    return replace(run, pipeline=replace(run.pipeline, file=file), layer=layer)


def published(run: Run, tables: dict[str, Any]) -> Bundle:
    """Frame, race, verdict, publication; then as a worker would load it."""
    retrain.frame_from_tables(run, tables)
    retrain.train_all(run)
    verdict = retrain.judge_run(run)
    assert verdict["passed"], [gate for gate in verdict["gates"] if not gate["passed"]]
    version = retrain.publish_run(run)["version"]
    bundle = verify(run.registry().raw(version), load_public_keys(settings().keys_folder), plan=run.plan)
    check_golden(Scorer(run.plan, bundle))
    return bundle


def test_from_a_first_bundle_to_a_layer_alone_and_into_another_use_case(tables: dict[str, Any]) -> None:
    plan = support.plan_of()
    first = published(run_of(plan, "first", trials=2), older(tables))
    assert set(first.metrics["search"]["layers"]) == {"behaviour", "terminal_risk", "joint"}
    assert (settings().home / "runs" / plan.name / "first" / "search" / "history.svg").is_file()

    alone = published(run_of(plan, "alone", layer="fraud", warm_start="champion"), tables)
    assert alone.metrics["kept"] == {"version": first.version, "layers": ["behaviour", "joint", "terminal_risk"]}
    for name in alone.metrics["kept"]["layers"]:
        assert alone.files[f"{name}.onnx"] == first.files[f"{name}.onnx"]
    assert alone.parent == first.version

    second = Plan.of(with_transfer(plan.usecase, first.version))
    pipeline = run_of(plan, "transferred").pipeline
    bundle = published(Run(second, pipeline, settings(), "transferred"), tables)
    brought = ["lately_behaviour", "lately_terminal_risk", "lately_joint", "lately"]
    assert [m["name"] for m in bundle.models] == [*brought, *plan.models]
    assert bundle.files["lately_joint.onnx"] == first.files["joint.onnx"]
    assert bundle.metrics["transferred"]["lately"]["version"] == first.version


def older(tables: dict[str, Any]) -> dict[str, Any]:
    """The history as it was some weeks earlier."""
    times = {"events": "occurred_at_ms", "labels": "labelled_at_ms"}
    return {name: table.filter(table[times[name]] < START + 40 * DAY) for name, table in tables.items()}


def with_transfer(usecase: UseCase, version: int) -> UseCase:
    """The same use case with an older bundle of its own as one more opinion."""
    fraud = usecase.models["fraud"]
    models = {**usecase.models, "fraud": Model(uses=[*fraud.uses, "lately"], candidates=fraud.candidates)}
    return replace(usecase, models=models, transfers={"lately": Transfer(usecase.name, bundle=version)})


def retrain_by_command(*words: str) -> dict[str, Any]:
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["card_fraud", "--local", "--json", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.long
def test_the_command_trains_one_layer_on_what_was_archived(services: Services, tables: dict[str, Any]) -> None:
    """A lake that begins with files; all layers, then one of them with a search."""
    with cases.prefixed("alone."):
        plan, names = support.plan_of(), support.names_of(support.plan_of())
        batch_topics.make(plan, settings(), 2)
        make_keys(settings().keys_folder)
        rows = history_columns(plan, tables)
        rows = take(rows, np.flatnonzero(np.asarray(rows[TIME]) < START + DAYS * DAY))
        start = Start(1, FILES, layout=plan.layout_fingerprint)
        Generations(plan, names, settings().lake_folder).write(start, replay(plan, rows).records, None, rows)
        registry = Registry(support.store(), names)

        versions = [retrain_by_command()["version"], retrain_by_command("--layer", "fraud", "--trials", "1")["version"]]

        whole, alone = (Bundle.from_bytes(registry.raw(version)) for version in versions)
        changed = {name for name in plan.models if whole.files[f"{name}.onnx"] != alone.files[f"{name}.onnx"]}
        assert changed <= {"fraud"}
        assert alone.metrics["kept"] == {"version": versions[0], "layers": ["behaviour", "joint", "terminal_risk"]}
        assert alone.metrics["candidate"] == "weighing"
