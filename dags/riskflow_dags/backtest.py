"""`<use case>_backtest`: a bundle and its policy over the past, a task for each day."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from riskflow_dags.shared import BUNDLE, SPAN, Maker

DOC = """
### What a bundle would have decided, beside what was decided live and what was true

The span is split by day, each day is a task, and the whole equals a backtest in one go. Its forecast is kept in the
lake. Each run covers its data interval, so the past is done by a backfill; `from` and `to` ask for another span. A
run that is started without them covers the last seven days that the archive holds whole. A day that failed is done
again alone: `riskflow runs again {usecase}_backtest RUN count_day --map-index N`; `join` follows.
"""


def make(maker: Maker) -> DAG:
    """prepare, count_day for each day, join."""
    with maker.dag(DOC, _params(), intervals=True) as dag:
        days = maker.step("prepare")
        maker.mapped("count_day", "day", days) >> maker.step("join")
    return dag


def _params() -> dict[str, Param]:
    return {
        "bundle": BUNDLE,
        **SPAN,
        "policy": Param(None, type=["null", "string"], description="A policy.yaml to try instead of the bundle's"),
        "segments": Param([], type="array", items={"type": "string"}, description="Fields to show figures by"),
        "fold": Param(False, type="boolean", description="Work features out again even where the archive has them"),
    }
