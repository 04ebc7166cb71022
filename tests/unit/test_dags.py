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

from batch.pipeline_dags import KINDS, STEPS_OF
from batch.steps import STEPS, Asked
from riskflow.settings import PROJECT, settings
from riskflow.usecase import usecase_names

pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")

LOOK = PROJECT / "tests" / "unit" / "dag_look.py"
PODS = """
run_in: pod
pod:
  image: risk/riskflow:1
  claim: riskflow-home
  namespace: risk
  requests: {cpu: "1", memory: 2Gi}
  limits: {memory: 4Gi}
  env: {RISKFLOW_KAFKA: "kafka:9092"}
  secrets: [riskflow-secrets]
pool: {name: training, slots: 2}
promotion: approval
ramp: {shares: [0.005, 0.1]}
deadlines: {retrain: 2h}
dags: {archive: null, score_batch: false, labels: ["0 5 * * *", lake], retrain: labels}
tasks:
  - {name: check_segments, call: usecases.card_fraud.tasks.check_segments, after: judge, before: publish}
"""


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that knows of no Airflow home but its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RISKFLOW"))}
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env={**clean, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def look(home: Path, **environment: str) -> dict[str, Any]:
    """What card_fraud's file declares, read in a fresh process without a database."""
    done = python(
        str(LOOK), str(PROJECT / "dags"), "card_fraud", AIRFLOW_HOME=str(home), AIRFLOW__CORE__UNIT_TEST_MODE="True",
        AIRFLOW_CONN_KUBERNETES_DEFAULT="kubernetes://", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """With the pipeline.yaml that is shipped."""
    return look(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def dags(usual: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = usual["dags"]
    return found


@pytest.fixture(scope="module")
def in_pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """With everything that is off by default."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "card_fraud").mkdir()
    (home / "card_fraud" / "pipeline.yaml").write_text(PODS)
    found: dict[str, Any] = look(home, RISKFLOW_USECASES=str(home))["dags"]
    return found


def test_every_use_case_has_a_dag_file() -> None:
    assert all((PROJECT / "dags" / f"{name}.py").is_file() for name in usecase_names(settings().usecases))


def test_one_file_makes_a_dag_of_each_kind(dags: dict[str, Any]) -> None:
    assert set(dags) == {f"card_fraud_{kind}" for kind in KINDS if kind != "promote"}  # nothing to promote by default


def test_every_dag_has_the_chain_that_lint_knows(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    for kind in KINDS:
        found = dags.get(f"card_fraud_{kind}") or in_pods[f"card_fraud_{kind}"]
        assert set(STEPS_OF[kind]) - {"turn", "foretell"} <= set(found["upstream"]), kind
    for before, after in pairwise(STEPS_OF["retrain"]):
        assert before in in_pods["card_fraud_retrain"]["upstream"][after]
    assert dags["card_fraud_retrain"]["mapped"] == ["train"]
    assert dags["card_fraud_backtest"]["mapped"] == ["count_day"]


def test_they_are_tidy(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    for name, dag in [*dags.items(), *in_pods.items()]:
        assert (dag["undocumented"], dag["silent"]) == ([], []), name
        assert "pipeline.yaml" in dag["doc"]
        assert "{" not in dag["doc"]
        assert dag["owners"] == ["card_fraud"]
        assert dag["retries"] == ([1, 20] if name.endswith("promote") else [1])
        assert {"card_fraud", "riskflow"} < set(dag["tags"])
        assert dag["max_active_runs"] == 1
        assert not dag["catchup"]


def test_schedules_are_those_of_the_file(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    retrain = dags["card_fraud_retrain"]["schedule"]
    assert "CronTriggerTimetable(expression='0 3 * * *'" in retrain
    assert "run_immediately=datetime.timedelta(0)" in retrain
    assert "card_fraud/drift" in retrain
    assert "card_fraud/lake" in dags["card_fraud_labels"]["schedule"]
    assert dags["card_fraud_score_batch"]["schedule"].startswith("CronDataIntervalTimetable")  # can be backfilled
    assert dags["card_fraud_backtest"]["schedule"].startswith("CronDataIntervalTimetable")
    assert in_pods["card_fraud_archive"]["schedule"].startswith("<airflow.sdk.definitions.timetables.simple.Null")
    assert "card_fraud_score_batch" not in in_pods
    labels = in_pods["card_fraud_labels"]["schedule"]
    assert "0 5 * * *" in labels
    assert "card_fraud/lake" in labels
    assert "card_fraud/labels" in in_pods["card_fraud_retrain"]["schedule"]


def test_assets_connect_them(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    assert dags["card_fraud_archive"]["outlets"] == {"archive": ["card_fraud/lake"]}
    assert dags["card_fraud_labels"]["outlets"] == {"ready": ["card_fraud/labels"]}
    assert dags["card_fraud_retrain"]["outlets"] == {"publish": ["card_fraud/published"]}
    assert dags["card_fraud_drift"]["outlets"] == {"ask_retrain": ["card_fraud/drift"]}
    assert in_pods["card_fraud_promote"]["outlets"] == {"crown": ["card_fraud/champion"]}
    assert "card_fraud/challenger" in in_pods["card_fraud_promote"]["schedule"]


def test_params_are_typed_and_follow_the_promotion(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    assert dags["card_fraud_retrain"]["params"] == {"why": "", "train_days": None, "alias": None}
    assert "default: champion" in dags["card_fraud_retrain"]["aliases"]
    assert "default: challenger" in in_pods["card_fraud_retrain"]["aliases"]
    assert dags["card_fraud_backtest"]["params"]["bundle"] == "champion"


def test_only_where_challengers_race_a_retraining_waits_for_its_turn_and_makes_a_forecast(
    dags: dict[str, Any], in_pods: dict[str, Any]
) -> None:
    assert not {"turn", "foretell"} & set(dags["card_fraud_retrain"]["upstream"])
    assert in_pods["card_fraud_retrain"]["upstream"]["foretell"] == ["publish"]
    assert in_pods["card_fraud_retrain"]["upstream"]["turn"] == []
    assert in_pods["card_fraud_retrain"]["upstream"]["archive"] == ["turn"]
    assert "turn" not in in_pods["card_fraud_retrain"]["pods"]


def test_one_candidate_that_fails_does_not_keep_the_others_from_racing(dags: dict[str, Any]) -> None:
    assert dags["card_fraud_retrain"]["rules"]["judge"].endswith("ALL_DONE_MIN_ONE_SUCCESS")


def test_a_winner_is_approved_then_ramped_and_guarded_share_by_share(in_pods: dict[str, Any]) -> None:
    promote = in_pods["card_fraud_promote"]
    upstream, ramp = promote["upstream"], ["canary_0_5", "guard_0_5", "canary_10", "guard_10", "crown"]
    chain = ["race", "winner", "approval", *ramp]
    assert sorted(upstream) == sorted([*chain, "rejected", "take_back"])
    for before, after in pairwise(chain):
        assert before in upstream[after]
    assert promote["kinds"]["approval"] == "Approval"
    assert promote["modes"] == {"guard_0_5": "reschedule", "guard_10": "reschedule"}  # no slot is held between looks


def test_whatever_fails_after_the_canary_came_takes_it_back_and_a_no_ends_the_race(in_pods: dict[str, Any]) -> None:
    promote = in_pods["card_fraud_promote"]
    ramp = ["canary_0_5", "guard_0_5", "canary_10", "guard_10", "crown"]
    assert promote["upstream"]["take_back"] == sorted(ramp)
    assert promote["rules"]["take_back"].endswith("ALL_DONE_SETUP_SUCCESS")
    assert promote["upstream"]["rejected"] == ["canary_0_5"]  # a no skips what hangs on the question itself
    assert promote["rules"]["rejected"].endswith("ALL_SKIPPED")
    assert not {"take_back", "rejected"} & set(promote["pods"])


def test_a_task_of_the_teams_own_stands_where_the_file_says(in_pods: dict[str, Any]) -> None:
    upstream = in_pods["card_fraud_retrain"]["upstream"]
    assert upstream["check_segments"] == ["judge"]
    assert "check_segments" in upstream["publish"]


def test_pool_and_deadline_are_those_of_the_file(dags: dict[str, Any], in_pods: dict[str, Any]) -> None:
    assert in_pods["card_fraud_retrain"]["pools"] == ["training"]
    assert in_pods["card_fraud_retrain"]["deadlines"] == [7200.0]
    assert dags["card_fraud_retrain"]["deadlines"] == []  # dag.test() of Airflow 3.3.2 crashes on one


def test_a_step_in_a_pod_is_told_what_the_worker_would_be(in_pods: dict[str, Any]) -> None:
    pod = in_pods["card_fraud_retrain"]["pods"]["check"]
    (base, *_) = pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "risk"
    assert base["image"] == "risk/riskflow:1"
    assert base["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    assert {"name": "RISKFLOW_HOME", "value": "/riskflow"} in base["env"]
    assert {"name": "RISKFLOW_KAFKA", "value": "kafka:9092"} in base["env"]
    assert base["envFrom"] == [{"secretRef": {"name": "riskflow-secrets"}}]
    assert {"mountPath": "/riskflow", "name": "home"} in base["volumeMounts"]
    assert {"name": "home", "persistentVolumeClaim": {"claimName": "riskflow-home"}} in pod["spec"]["volumes"]
    assert base["command"] == ["riskflow"]
    asked = Asked.from_json(base["args"][2])
    assert base["args"][:2] == ["step", "--asked"]
    assert (asked.usecase, asked.kind, asked.step, asked.run_id) == ("card_fraud", "retrain", "check", "manual__1")
    assert asked.params == {"why": 'they say "more {{ fraud }}"', "train_days": None}
    assert (asked.who, asked.attempt) == ("airflow: ann", 2)
    assert (asked.from_ms, asked.to_ms) == (1_767_225_600_000, 1_767_312_000_000)  # the run's data interval


def test_a_mapped_step_has_a_pod_for_each_value(in_pods: dict[str, Any]) -> None:
    pod = in_pods["card_fraud_retrain"]["pods"]["train"]
    words = pod["spec"]["containers"][0]["args"]
    assert json.loads(pod["metadata"]["annotations"]["riskflow/args"]) == {"candidate": "random_forest"}
    assert json.loads(words[words.index("--args") + 1]) == {"candidate": "random_forest"}
    assert Asked.from_json(words[2]).map_index == 0


def test_what_signs_or_asks_people_stays_with_airflow(in_pods: dict[str, Any]) -> None:
    pods = {step for dag in in_pods.values() for step in dag["pods"]}
    assert pods <= {*STEPS, "check_segments"}
    assert not pods & {"publish", "crown", "approval", "ready", "winner", "take_back", "take_back_late"}


def test_reading_a_dag_file_imports_nothing_heavy(usual: dict[str, Any]) -> None:
    assert usual["heavy"] == []


def test_dag_files_import_airflow_by_its_sdk_only() -> None:
    """Providers' operators, which only some use cases have, are imported where they are made."""
    for path in (PROJECT / "dags").rglob("*.py"):
        lines = path.read_text().splitlines()
        named = [line for line in lines if line.startswith(("from airflow", "import airflow"))]
        assert all(line.startswith("from airflow.sdk") for line in named) or path.name == "pods.py", path


BAG = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
sys.path.append(sys.argv[1])
bag = DagBag(sys.argv[1])
print(json.dumps({"dags": sorted(bag.dags), "errors": bag.import_errors}))
"""


def test_a_broken_pipeline_is_an_error_of_its_own_dags_only(tmp_path: Path) -> None:
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
    assert found["dags"] == sorted(f"card_fraud_{kind}" for kind in KINDS if kind != "promote")
    (file, error), *others = found["errors"].items()
    assert not others
    assert file.endswith("refunds.py")
    assert f"pipeline.yaml, line {line}" in error
    assert "Did you mean validation" in error
