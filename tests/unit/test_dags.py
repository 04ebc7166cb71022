"""DAG files: cheap to read, complete, and one team's mistake stays its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from riskflow.settings import PROJECT, settings
from riskflow.usecase import usecase_names

pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")

HEAVY = ("numpy", "polars", "sklearn", "numba", "kafka", "redis", "onnxruntime", "riskflow.plan")
STEPS = ["archive", "labels", "check", "replay", "train", "judge", "publish"]
LOOK = """
import json, sys
sys.path.insert(0, "dags")
from card_fraud import dag
upstream = {t.task_id: sorted(t.upstream_task_ids) for t in dag.tasks}
about = {
    "id": dag.dag_id, "upstream": upstream, "doc": dag.doc_md, "tags": sorted(dag.tags), "params": dag.params.dump(),
    "catchup": dag.catchup, "max_active_runs": dag.max_active_runs, "schedule": repr(dag.timetable),
    "owners": sorted({t.owner for t in dag.tasks}), "retries": sorted({t.retries for t in dag.tasks}),
    "mapped": [t.task_id for t in dag.tasks if t.is_mapped],
    "undocumented": [t.task_id for t in dag.tasks if not (t.partial_kwargs.get("doc_md") if t.is_mapped else t.doc_md)],
    "heavy": sorted(set(json.loads(sys.argv[1])) & set(sys.modules)),
}
print(json.dumps(about))
"""


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that knows of no Airflow home but its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RISKFLOW"))}
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env={**clean, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What card_fraud's file declares, read in a fresh process without a database."""
    home = str(tmp_path_factory.mktemp("airflow"))
    done = python("-c", LOOK, json.dumps(HEAVY), AIRFLOW_HOME=home, AIRFLOW__CORE__UNIT_TEST_MODE="True")
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_every_use_case_has_a_dag_file() -> None:
    assert all((PROJECT / "dags" / f"{name}.py").is_file() for name in usecase_names(settings().usecases))


def test_the_dag_has_the_chain_of_a_retraining(dag: dict[str, Any]) -> None:
    assert dag["id"] == "card_fraud_retrain"
    assert sorted(dag["upstream"]) == sorted(STEPS)
    for before, after in pairwise(STEPS):
        assert before in dag["upstream"][after]
    assert dag["mapped"] == ["train"]


def test_it_is_tidy(dag: dict[str, Any]) -> None:
    assert not dag["undocumented"]
    assert "pipeline.yaml" in dag["doc"]
    assert dag["owners"] == ["card_fraud"]
    assert dag["retries"] == [1]
    assert "card_fraud" in dag["tags"]
    assert dag["max_active_runs"] == 1
    assert not dag["catchup"]
    assert dag["params"] == {"why": "", "train_days": None, "alias": "champion"}
    assert "0 3 * * *" in dag["schedule"]


def test_reading_a_dag_file_imports_nothing_heavy(dag: dict[str, Any]) -> None:
    assert dag["heavy"] == []


def test_dag_files_import_airflow_by_its_sdk_only() -> None:
    for path in (PROJECT / "dags").glob("*.py"):
        lines = [line.strip() for line in path.read_text().splitlines()]
        named = [line for line in lines if line.startswith(("from airflow", "import airflow"))]
        assert all(line.startswith("from airflow.sdk") for line in named), path


BAG = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
sys.path.append(sys.argv[1])
bag = DagBag(sys.argv[1])
print(json.dumps({"dags": sorted(bag.dags), "errors": bag.import_errors}))
"""


def test_a_broken_pipeline_is_an_error_of_its_own_dag_only(tmp_path: Path) -> None:
    dags, usecases = tmp_path / "dags", tmp_path / "usecases"
    shutil.copytree(PROJECT / "dags", dags)
    for name in ("card_fraud", "refunds"):
        (usecases / name).mkdir(parents=True)
        shutil.copy(PROJECT / "usecases" / "card_fraud" / "pipeline.yaml", usecases / name)
    (dags / "refunds.py").write_text((dags / "card_fraud.py").read_text().replace('"card_fraud"', '"refunds"'))
    broken = usecases / "refunds" / "pipeline.yaml"
    broken.write_text(broken.read_text().replace("validation:", "validatoin:"))
    line = next(i for i, text in enumerate(broken.read_text().splitlines(), 1) if text.startswith("validatoin"))

    done = python(
        "-c", BAG, str(dags), AIRFLOW_HOME=str(tmp_path / "airflow"), AIRFLOW__CORE__UNIT_TEST_MODE="True",
        AIRFLOW__CORE__LOAD_EXAMPLES="False", RISKFLOW_USECASES=str(usecases),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{tmp_path}/airflow.db",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["dags"] == ["card_fraud_retrain"]
    (file, error), *others = found["errors"].items()
    assert not others
    assert file.endswith("refunds.py")
    assert f"pipeline.yaml, line {line}" in error
    assert "Did you mean validation" in error
