"""`<use case>_score_batch`: a bundle over archived events."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from riskflow_dags.shared import BUNDLE, SPAN, Maker

DOC = """
### Scores archived events of {usecase} with a bundle, to Parquet

Each run covers its data interval, so the past is scored by a backfill; `from` and `to` ask for another span. A run
that is started without them covers the last seven days that the archive holds whole. Files lie in
`scored/{usecase}/<version>/` of Riskflow's home. Nothing that is live changes.
"""


def make(maker: Maker) -> DAG:
    """One task."""
    reasons = Param(False, type="boolean", description="Say why, for what is not approved")
    with maker.dag(DOC, {"bundle": BUNDLE, **SPAN, "reasons": reasons}, intervals=True) as dag:
        maker.step("score")
    return dag
