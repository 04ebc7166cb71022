"""Steps in pods of their own: the same step, said as `riskflow step ...` to an image of this project.

The pod gets what the worker would have got: what was asked for as one word of JSON, and the run's folder on a claim
that all steps mount. Its summary comes back as XCom.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from batch.pipeline_dags import Pod
from batch.task_runs import NOTHING_TO_DO
from riskflow_dags.task import alert_failed

if TYPE_CHECKING:
    from riskflow_dags.shared import Maker

HOME = "/riskflow"
ARGS = "riskflow/args"  # annotation of a pod that is one of several
ASKED = "{{ asked({'ti': ti, 'task': task, 'dag_run': dag_run, 'run_id': run_id, 'params': params}).to_json() }}"


def pod_step(
    maker: Maker, name: str, args: Mapping[str, Any], skip_unless: str, options: dict[str, Any]
) -> KubernetesPodOperator:
    """One step as one pod."""
    return KubernetesPodOperator(
        arguments=_words(json.dumps(dict(args)), skip_unless), **_options(maker, name, options)
    )


def mapped_pod_step(maker: Maker, name: str, argument: str, over: Any, options: dict[str, Any]) -> Any:
    """A pod for each value that another task handed over.

    The value comes as an annotation: Airflow renders no template in what is mapped, and the words are one.
    """

    def noted(value: Any) -> dict[str, str]:
        return {ARGS: json.dumps({argument: value})}

    words = _words(f"{{{{ task.annotations['{ARGS}'] }}}}", "")
    partial = KubernetesPodOperator.partial(arguments=words, **_options(maker, name, options))
    return partial.expand(annotations=over.map(noted))


def _words(args: str, skip_unless: str) -> list[str]:
    """What follows the image's entry point."""
    asked = ["step", "--asked", ASKED, "--args", args]
    return [*asked, "--skip-unless", skip_unless] if skip_unless else asked


def _options(maker: Maker, name: str, options: dict[str, Any]) -> dict[str, Any]:
    from riskflow_dags.shared import doc_of

    pod = maker.pipeline.file.pod
    return {
        "task_id": name,
        "doc_md": doc_of(name),
        "name": f"{maker.usecase}-{maker.kind}-{name}".replace("_", "-"),
        "namespace": pod.namespace,
        "image": pod.image,
        "cmds": ["riskflow"],
        "env_vars": [k8s.V1EnvVar(name=n, value=v) for n, v in {"RISKFLOW_HOME": HOME, **pod.env}.items()],
        "env_from": [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in pod.secrets],
        "container_resources": k8s.V1ResourceRequirements(requests=pod.requests or None, limits=pod.limits or None),
        "service_account_name": pod.service_account,
        **_claim(pod),
        "do_xcom_push": True,
        "skip_on_exit_code": NOTHING_TO_DO,
        "on_finish_action": "delete_pod",
        "retry_delay": timedelta(seconds=20),
        "on_failure_callback": [alert_failed],
        **options,
    }


def _claim(pod: Pod) -> dict[str, Any]:
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=pod.claim)
    return {
        "volumes": [k8s.V1Volume(name="home", persistent_volume_claim=source)],
        "volume_mounts": [k8s.V1VolumeMount(name="home", mount_path=HOME)],
    }
