"""`<use case>_review`: draws scored events that people should look at."""

from __future__ import annotations

from airflow.sdk import DAG

from riskflow_dags.shared import Maker

DOC = """
### Puts some scored events of {usecase} before people, so that something is learned

Of what was archived since the last sample: events whose score is nearest to a threshold, and events at random. They go
to the topic `{usecase}.review`, and are kept in the lake with the odds of having been drawn. See the section `review`.
"""


def make(maker: Maker) -> DAG:
    """One task."""
    with maker.dag(DOC) as dag:
        maker.step("sample", skip_unless="events")
    return dag
