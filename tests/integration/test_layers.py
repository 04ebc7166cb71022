"""A layer trained alone, a warm start and a transfer, through a real registry: what is published can be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from batch import retrain
from batch.retrain import Run
from batch.simulate import Shares, simulate
from ops.local import Services
from riskflow.bundle import Bundle, check_golden, verify
from riskflow.declare import Model, Transfer
from riskflow.keys import load_public_keys, make_keys
from riskflow.plan import Plan
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
