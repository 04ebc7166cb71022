"""`<use case>_labels`: completes labels, and says when enough new ones are mature."""

from __future__ import annotations

from airflow.sdk import DAG

from batch.pipeline_dags import LABELS
from riskflow_dags.shared import Maker

DOC = """
### Completes the labels of {usecase}, and lets them mature

A label that came without its event's customer or terminal is completed from the archive and sent once more. When enough
labelled events have become mature since the last time, the asset `{usecase}/labels` says so; else `ready` is skipped.
"""


def make(maker: Maker) -> DAG:
    """labels, ready."""
    with maker.dag(DOC) as dag:
        maker.step("labels") >> maker.step("ready", skip_unless="ready", outlets=[maker.asset(LABELS)])
    return dag
