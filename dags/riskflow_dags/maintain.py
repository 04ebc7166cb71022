"""`<use case>_maintain`: what is cleared away."""

from __future__ import annotations

from airflow.sdk import DAG, TriggerRule

from riskflow_dags.shared import Maker

DOC = """
### Clears away what {usecase} does not need any more

Sets broken files of the lake aside, makes one file of many small ones, drops files that pipeline.yaml gives a time to,
bundles that nobody names, and folders of old runs. See the section `maintain`. Takes off a canary whose guard is dead.
Records of dead entities are not its work: workers delete them (docs/decisions/0020-dead-entities.md).
"""


def make(maker: Maker) -> DAG:
    """mend, compact, and the drops: one that fails keeps none of the others from running."""
    with maker.dag(DOC) as dag:
        maker.step("take_back_late")
        mended = maker.step("mend")
        files = [maker.step("drop_old_files", trigger_rule=TriggerRule.ALL_DONE)]
        if maker.pipeline.file.maintain.compact:
            files.insert(0, maker.step("compact", trigger_rule=TriggerRule.ALL_DONE))
        for step in files:
            mended >> step
            mended = step
        maker.step("drop_old_bundles")
        maker.step("drop_old_runs")
    return dag
