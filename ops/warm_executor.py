"""Airflow's LocalExecutor with the libraries of every task loaded once, before tasks are forked.

A task begins half a second after it was given out, instead of two. Airflow's settings name it:
AIRFLOW__CORE__EXECUTOR=ops.warm_executor.WarmExecutor. Riskflow's own code and the use cases are not among the
libraries: a task reads them as they are when it begins.
"""

from __future__ import annotations

import importlib

from airflow.executors.local_executor import LocalExecutor

# Left out: polars and onnxruntime start threads as soon as they are imported, and a fork has none of them.
LIBRARIES = (
    "airflow.providers.standard.operators.hitl", "airflow.sdk.execution_time.task_runner", "cryptography.x509", "kafka",
    "matplotlib.figure", "msgspec", "numba", "opentelemetry.sdk", "pydantic_settings", "redis.asyncio", "scipy.stats",
    "skl2onnx", "sklearn.ensemble", "sklearn.linear_model", "sklearn.metrics", "sklearn.pipeline",
)  # fmt: skip


class WarmExecutor(LocalExecutor):
    """Its worker processes are forked when it starts; each task is forked from one of them."""

    def start(self) -> None:
        """Loads what is there; a library that is not is left to the task that wants it."""
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except ImportError as error:
                self.log.warning("%s is not loaded ahead: %s", name, error)
        super().start()
