"""`<use case>_archive`: topics to the lake."""

from __future__ import annotations

from airflow.sdk import DAG

from batch.pipeline_dags import LAKE
from riskflow_dags.shared import Maker

DOC = """
### Copies the topics of {usecase} to Parquet

Skipped when nothing was new; else the asset `{usecase}/lake` says so. Done again, it adds what is new.
"""


def make(maker: Maker) -> DAG:
    """One task."""
    with maker.dag(DOC) as dag:
        maker.step("archive", skip_unless="added", outlets=[maker.asset(LAKE)])
    return dag
