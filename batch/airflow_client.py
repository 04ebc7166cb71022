"""Airflow's REST API (v2), as far as it is needed here: find a DAG, start a run, do a task again, read results."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from riskflow.errors import NotReady, RiskflowError
from riskflow.settings import Settings

API = "/api/v2"
ANSWER_S = 20.0
LOOKS = 4  # at a server that is busy: the first task makes Airflow build its task API, and nobody is answered meanwhile
APPEAR_S = 90.0  # a DAG processor that has just started reads the files first
POLL_S = 0.5
ENDED = ("success", "failed")


class Refused(RiskflowError):
    """Airflow answered, and not with what was asked for; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Busy(NotReady):
    """Airflow did not answer in time."""


@dataclass(frozen=True)
class Task:
    """One task instance. `label` names a mapped one, for example by its candidate."""

    task_id: str
    state: str
    map_index: int = -1
    label: str | None = None
    try_number: int = 0
    duration_s: float | None = None

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class Airflow:
    """One API server and one user."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self._user, self._password = url.rstrip("/"), user, password
        self._token: str | None = None

    @classmethod
    def of(cls, conf: Settings) -> Airflow:
        return cls(conf.airflow_url, conf.airflow_user, conf.airflow_password.get_secret_value())

    # what is there

    def wait_for(self, dag_id: str, timeout_s: float = APPEAR_S) -> dict[str, Any]:
        """The DAG, once Airflow has read its file; NotReady with the file's error, or after the time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return dict(self._call("GET", f"/dags/{dag_id}"))
            except Refused as refused:
                if refused.status != 404:
                    raise
            self._say_broken(dag_id)
            if time.monotonic() > deadline:
                raise NotReady(
                    f"Airflow at {self.url} has no DAG {dag_id}. Give the use case a file in dags/, as card_fraud.py"
                )
            time.sleep(POLL_S)

    def import_errors(self) -> dict[str, str]:
        """File -> why it cannot be read, of all DAG files."""
        found = self._call("GET", "/importErrors")["import_errors"]
        return {str(e["filename"]): str(e["stack_trace"]) for e in found}

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}"))

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        return list(self._call("GET", f"/dags/{dag_id}/dagRuns?order_by=-run_after&limit=100")["dag_runs"])

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """What a task said at its last try."""
        last = [t for t in self.tasks(dag_id, run_id) if t.task_id == task_id][-1]
        path = f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/logs/{last.try_number}"
        return json.dumps(self._call("GET", f"{path}?full_content=true"))

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Every task of a run, in the order in which they ran."""
        found = self._call("GET", f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances?limit=1000")
        rows = sorted(found["task_instances"], key=lambda t: (t["start_date"] or "9", t["map_index"]))
        return [_task(row) for row in rows]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task handed over; None when it handed over nothing."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            value = self._call("GET", path)["value"]
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return json.loads(value) if isinstance(value, str) else value

    def pools(self) -> set[str]:
        """The names of all pools."""
        return {str(pool["name"]) for pool in self._call("GET", "/pools?limit=1000")["pools"]}

    # what changes something

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Starts a run; returns its id. A DAG that is switched off is switched on: it would wait for ever."""
        self.switch_on(dag_id)
        return str(self._call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

    def switch_on(self, dag_id: str) -> None:
        """So that its schedule and its assets start it."""
        if self.wait_for(dag_id)["is_paused"]:
            self._call("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def again(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> list[str]:
        """Has a task done again, one of several or all, and with it what comes after it; returns who runs again.

        Raises NotReady where the DAG is switched off: its tasks would wait for ever.
        """
        if self.wait_for(dag_id, 0)["is_paused"]:
            raise NotReady(
                f"{dag_id} is switched off, so {task_id} would wait for ever. Switch it on: riskflow airflow dags "
                f"unpause {dag_id}"
            )
        one: Any = task_id if map_index < 0 else [task_id, map_index]
        body = {
            "dry_run": False, "dag_run_id": run_id, "task_ids": [one], "only_failed": False,
            "include_downstream": True, "prevent_running_task": True,
        }  # fmt: skip
        found = self._call("POST", f"/dags/{dag_id}/clearTaskInstances", body)["task_instances"]
        return sorted(_task(row).name for row in found)

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, **params: Any) -> None:
        """Says what a task that waits for a person wants to know."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, {"chosen_options": [option], "params_input": params})

    def set_pool(self, name: str, slots: int) -> None:
        """A pool of so many slots, whether it is there or not."""
        body = {"name": name, "slots": slots, "description": "named in a pipeline.yaml", "include_deferred": False}
        try:
            self._call("POST", "/pools", body)
        except Refused as refused:
            if refused.status != 409:
                raise
            self._call("PATCH", f"/pools/{_quoted(name)}", body)

    def _say_broken(self, dag_id: str) -> None:
        """The DAG's file is named like its use case."""
        for file, error in self.import_errors().items():
            if dag_id.startswith(file.rsplit("/", 1)[-1].removesuffix(".py") + "_"):
                raise RiskflowError(f"Airflow cannot read {file}: {error.strip().splitlines()[-1]}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request; what only looks is said again to a server that is busy."""
        for look in range(LOOKS if method == "GET" else 1):
            try:
                return self._signed(method, path, body)
            except Busy:
                if method != "GET" or look == LOOKS - 1:
                    raise
        raise AssertionError("unreachable")

    def _signed(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """One request; a token that has run out is renewed once."""
        for attempt in (1, 2):
            try:
                return self._request(method, API + path, body, self._token or self._sign_in())
            except Refused as refused:
                if refused.status != 401 or attempt == 2:
                    raise
                self._token = None
        raise AssertionError("unreachable")

    def _sign_in(self) -> str:
        who = {"username": self._user, "password": self._password}
        try:
            self._token = str(self._request("POST", "/auth/token", who, None)["access_token"])
        except Refused as refused:
            raise RiskflowError(
                f"Airflow at {self.url} refuses user {self._user!r} ({refused}). "
                "Set RISKFLOW_AIRFLOW_USER and RISKFLOW_AIRFLOW_PASSWORD"
            ) from None
        return self._token

    def _request(self, method: str, path: str, body: dict[str, Any] | None, token: str | None) -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, f"{method} {path}: {error.code} {_detail(error.read())}") from None
        except (OSError, ValueError) as error:
            late = isinstance(getattr(error, "reason", error), TimeoutError)
            raise (Busy if late else NotReady)(
                f"Airflow at {self.url} does not answer ({error}). Run: riskflow up, or train without it: --local"
            ) from None


def _task(row: dict[str, Any]) -> Task:
    return Task(
        row["task_id"], row["state"] or "waiting", row["map_index"], row.get("rendered_map_index"), row["try_number"],
        row["duration"],
    )  # fmt: skip


def _quoted(run_id: str) -> str:
    return urllib.parse.quote(run_id, safe="")


def _detail(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")
