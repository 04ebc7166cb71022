"""`riskflow lint` names every mistake with file, line and fix; `riskflow new` writes what has none, and trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch.pipeline_dags import KINDS
from cli.new import write_usecase
from riskflow.errors import DeclarationError
from riskflow.settings import PROJECT


def python(usecases: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RISKFLOW"))}
    where = {"RISKFLOW_USECASES": str(usecases), "RISKFLOW_HOME": str(usecases / "home"), "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env={**clean, **where, **environment}, capture_output=True, text=True,
        check=False, timeout=200,
    )  # fmt: skip


def riskflow(usecases: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(usecases, "-m", "cli.main", *words)


@pytest.fixture
def usecases(tmp_path: Path) -> Path:
    """A folder with one use case, as `riskflow new` writes it."""
    (tmp_path / "dags").mkdir()
    write_usecase("refunds", tmp_path, tmp_path / "dags")
    return tmp_path


def problems(usecases: Path) -> list[dict[str, Any]]:
    done = riskflow(usecases, "lint", "refunds", "--dags", str(usecases / "dags"), "--json")
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["refunds"]
    assert done.returncode == (1 if found else 0)
    return found


def change(path: Path, old: str, new: str) -> int:
    """Replaces a line's text; returns the line."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def test_a_new_use_case_has_no_problem_and_trains(usecases: Path) -> None:
    assert problems(usecases) == []
    history = str(usecases / "history")
    assert riskflow(usecases, "simulate", "--out", history, "--days", "60", "--customers", "300").returncode == 0
    done = riskflow(
        usecases, "train", "refunds", "--events", f"{history}/events.parquet", "--labels", f"{history}/labels.parquet",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ap"] > 3 * found["validation_frauds"] / found["validation_rows"]


BAG = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
sys.path.append(sys.argv[1])
bag = DagBag(sys.argv[1])
print(json.dumps({"dags": sorted(bag.dags), "errors": bag.import_errors}))
"""


def test_a_new_use_case_appears_in_airflow_by_itself(usecases: Path) -> None:
    pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")
    shutil.copytree(PROJECT / "dags" / "riskflow_dags", usecases / "dags" / "riskflow_dags")
    home = {"AIRFLOW_HOME": str(usecases / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{usecases}/airflow.db"}
    done = python(usecases, "-c", BAG, str(usecases / "dags"), **home, **database)
    assert done.returncode == 0, done.stderr[-2000:]
    kinds = [kind for kind in KINDS if kind != "promote"]
    wanted = {"dags": sorted(f"refunds_{kind}" for kind in kinds), "errors": {}}
    assert json.loads(done.stdout.splitlines()[-1]) == wanted


def test_a_use_case_is_not_written_over_another(usecases: Path) -> None:
    before = (usecases / "refunds" / "policy.yaml").read_text()
    with pytest.raises(DeclarationError, match="is there already"):
        write_usecase("refunds", usecases, usecases / "dags")
    with pytest.raises(DeclarationError, match="is not a name"):
        write_usecase("../refunds", usecases, usecases / "dags")
    assert (usecases / "refunds" / "policy.yaml").read_text() == before


def test_every_mistake_is_named_with_its_line(usecases: Path) -> None:
    folder = usecases / "refunds"
    lines = {
        "span": change(folder / "pipeline.yaml", "span: 28d ", "span: 28 days "),
        "checks": change(folder / "pipeline.yaml", "rows: {least: 2000}", "rows: {least: many}"),
        "labels": change(folder / "pipeline.yaml", "labels: lake", "labels: laek"),
        "review": change(folder / "policy.yaml", "alerts_per_day: 50", "alerts_per_dya: 50"),
        "when": change(folder / "policy.yaml", "_count_1h >= 10", "_count_9h >= 10"),
        "reason": change(folder / "policy.yaml", "reported_share:", "reported_shares:"),
    }
    own = "\ntasks: [{name: look, call: usecases.refunds.tasks.look, after: judge}]\n"
    (folder / "pipeline.yaml").write_text((folder / "pipeline.yaml").read_text() + own)
    (usecases / "dags" / "refunds.py").unlink()

    found = {(p["file"], p["line"]): (p["found"], p["fix"]) for p in problems(usecases)}

    expected = {
        ("pipeline.yaml", lines["span"]): "span '28 days' is not a number and a unit",
        ("pipeline.yaml", lines["checks"]): "checks.rows.least expected",
        ("pipeline.yaml", lines["labels"]): "dags.labels 'laek' is neither a cron nor an asset",
        ("policy.yaml", lines["review"]): "unknown field `alerts_per_dya`",
        ("policy.yaml", lines["when"]): "customer_activity_events_count_9h",
        ("policy.yaml", lines["reason"]): "reported_shares",
        ("dags/refunds.py", 1): "there is no such file",
    }
    for place, text in expected.items():
        assert text in found.get(place, ("nothing", ""))[0], (place, found)
    (call,) = [p for p, (text, _) in found.items() if "tasks[0].call" in text]
    assert call[0] == "pipeline.yaml"
    assert len(found) == len(expected) + 1
    assert all(fix for _, fix in found.values())


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        ("features.py", "def amount_to_usual(amount, ", "def amount_to_usual(amuont, ", "amuont"),
        ("features.py", "import numpy as np", "import numpy as np\nnothing_like_that(", "is not Python"),
        ("features.py", 'over=["7d", "30d"], is_fraud', 'over=["7 days"], is_fraud', "7 days"),
        ("models.py", "from riskflow.declare import Model", "from riskflow.declare import Modle", "Modle"),
    ],
)
def test_what_is_wrong_in_python_has_a_line_too(usecases: Path, file: str, old: str, new: str, text: str) -> None:
    line = change(usecases / "refunds" / file, old, new)
    (found,) = problems(usecases)
    assert found["file"] == file
    assert abs(found["line"] - line) <= 2
    assert text in found["found"]
