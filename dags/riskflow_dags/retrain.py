"""`<use case>_retrain`: learns again, judges, publishes."""

from __future__ import annotations

from airflow.sdk import DAG, AssetAlias, Param, TriggerRule

from batch.pipeline_dags import CHALLENGER, alias_of
from riskflow_dags.shared import WHY, Maker

DOC = """
### {usecase}: learn again, judge, publish

Reads what was archived, works out every feature through the kernel of the stream, races the candidates, and publishes
the best one if it passes its gates. Workers take the new bundle within two seconds; no event waits for it.

- From a terminal: `riskflow retrain {usecase} --why "more fraud since Monday"`; without Airflow: `--local`.
- While challengers race everything after `turn` is skipped, unless drift asks for the first time or `alias` is given.
- A candidate whose training fails is named in the verdict; the others race. To train it alone, and judge and publish
  after it: `riskflow runs again {usecase}_retrain RUN train --map-index N`.
- A refusal names the gate that failed; the evidence is `verdict.json` in the run's folder.
- To go back: `riskflow models rollback`.
"""


def make(maker: Maker) -> DAG:
    """archive, labels, check, replay, train for each candidate, judge, publish.

    Where there are races it begins with turn, and ends with foretell.
    """
    with maker.dag(DOC + _terms(maker), _params(maker)) as dag:
        turned = maker.step("turn") if alias_of(maker.pipeline.file) == CHALLENGER else None
        archived, racing = maker.step("archive"), maker.step("replay")
        archived >> maker.step("labels") >> maker.step("check") >> racing
        trained = maker.mapped("train", "candidate", racing)
        judged = maker.step("judge", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
        published = maker.step("publish", {"turned": turned}, outlets=[AssetAlias(f"{maker.usecase}/published")])
        trained >> judged >> published
        if turned is not None:
            turned >> archived
            published >> maker.step("foretell")
    return dag


def _terms(maker: Maker) -> str:
    file = maker.pipeline.file
    return f"\nLearns from {file.span}, an event is mature after {file.maturity}, validates on {file.validation}."


def _params(maker: Maker) -> dict[str, Param]:
    usual = alias_of(maker.pipeline.file)
    return {
        "why": WHY,
        "train_days": Param(
            None, type=["null", "integer"], minimum=2, maximum=3650, description="Learn from so many days instead"
        ),
        "alias": Param(
            None,
            type=["null", "string"],
            pattern="^(champion|(challenger|shadow)(:[a-z][a-z0-9_]{0,62})?)$",
            description=f"Who the new bundle becomes; default: {usual}. A challenger that is named takes the place of "
            "the one that races; challenger:NAME joins it",
        ),
    }
