"""A retraining while challengers race: it waits, takes a place or joins, and never keeps a race from ending."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import msgspec
import pytest

from batch import drift
from batch.bundling import build_bundle
from batch.pipeline_promotion import RaceFile
from batch.run import Run
from batch.steps import Asked, turn
from batch.storm import Storm
from batch.task_runs import Skipped
from batch.turn import RaceRuns, alias_for
from batch.verdicts import verdict_path
from riskflow.errors import RiskflowError
from riskflow.keys import load_private_key, make_keys
from riskflow.moves import MOST_BESIDE
from riskflow.policy import Policy
from riskflow.registry import Registry
from riskflow.settings import PROJECT, load
from tests.support import plan_of


class Racing:
    """A champion, versions that may challenge it, and the run of a retraining."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        conf = load(home=home)
        make_keys(conf.keys_folder)
        self.run = self.with_rules(Run.of(plan_of(), conf, "scheduled__2026-11-02T03:00:00+00:00"))
        self.registry = Registry(fakeredis.FakeRedis(), self.run.names)
        monkeypatch.setattr(Run, "registry", lambda *_: self.registry)
        self.by: dict[str, Any] = {"who": "ann", "why": "try", "private_key": load_private_key(conf.keys_folder)}
        policy = Policy.load(PROJECT / "usecases/card_fraud/policy.yaml")
        bundle = build_bundle(plan_of(), models={}, policy_numbers=policy.start())
        for _ in range(4):
            self.registry.add(bundle, self.by["private_key"], who="ann")
        self.registry.move("champion", 1, **self.by)

    def with_rules(self, run: Run, *, promotion: str = "race", **rules: Any) -> Run:
        file = msgspec.structs.replace(run.pipeline.file, promotion=promotion, race=RaceFile(**rules))
        return replace(run, pipeline=replace(run.pipeline, file=file))

    def challenge(self, alias: str = "challenger", version: int = 2) -> None:
        self.registry.move(alias, version, **self.by)

    def drift_asks(self) -> None:
        time.sleep(0.002)  # moves of one millisecond have no order
        now_ms, storm = int(time.time() * 1000), Storm(drift.folder(self.run) / drift.STATE)
        assert storm.allows(drift.RETRAIN, str(now_ms), now_ms, 0, 9)
        time.sleep(0.002)

    def judge(self, winner: int | None, days_ago: float = 0) -> None:
        """The race of those who stand now has been judged."""
        aliases = self.registry.aliases()
        moves = [move for alias, move in aliases.items() if alias.startswith("challenger")]
        kept = verdict_path(self.run, aliases["champion"], moves)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"winner": winner, "waits": "", "evidence": {}}))
        then = time.time() - days_ago * 86_400
        os.utime(kept, (then, then))


@pytest.fixture
def racing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Racing:
    return Racing(tmp_path, monkeypatch)


def test_before_anybody_challenges_a_retraining_becomes_the_challenger(racing: Racing) -> None:
    assert alias_for(racing.run, None, ["scheduled"]) == "challenger"


@pytest.mark.parametrize("causes", [["scheduled"], ["labels"], ["manual"], []])
def test_while_a_challenger_races_a_retraining_waits_and_says_for_what(racing: Racing, causes: list[str]) -> None:
    racing.challenge()
    with pytest.raises(RaceRuns, match=r"version 2 races against champion 1 since .* horizon of 14d") as said:
        alias_for(racing.run, None, causes)
    assert "--alias challenger:NAME" in str(said.value)


def test_the_step_is_skipped_with_the_reason(racing: Racing) -> None:
    racing.challenge()
    asked = Asked("card_fraud", "retrain", "turn", "scheduled__1", {"alias": None}, causes=["scheduled"])
    with pytest.raises(Skipped, match="version 2 races"):
        turn(racing.run, asked)
    drifted = replace(asked, causes=["drift", "labels"])
    assert turn(racing.run, drifted) == {"alias": "challenger"}


def test_what_drift_asks_for_takes_the_challengers_place(racing: Racing) -> None:
    racing.challenge()
    assert alias_for(racing.run, None, ["drift"]) == "challenger"


def test_drift_that_goes_on_leaves_the_challenger_it_has_asked_for_to_its_race(racing: Racing) -> None:
    racing.challenge()
    racing.drift_asks()
    assert alias_for(racing.run, None, ["drift"]) == "challenger", "that one is of the world before"
    racing.challenge(version=3)
    racing.drift_asks()
    with pytest.raises(RaceRuns, match="version 3 races"):
        alias_for(racing.run, None, ["drift"])
    racing.registry.move("champion", 4, **racing.by)
    racing.drift_asks()
    assert alias_for(racing.run, None, ["drift"]) == "challenger", "another champion, another drift"


@pytest.mark.parametrize("wanted", ["challenger", "challenger:forest", "champion", "shadow"])
def test_who_names_an_alias_gets_it(racing: Racing, wanted: str) -> None:
    racing.challenge()
    assert alias_for(racing.run, wanted, ["manual"]) == wanted


@pytest.mark.parametrize("wanted", ["canary", "best"])
def test_an_alias_that_a_retraining_cannot_have_is_refused_before_it_begins(racing: Racing, wanted: str) -> None:
    with pytest.raises(RiskflowError, match=f"alias '{wanted}'"):
        alias_for(racing.run, wanted)


def test_a_race_that_nobody_won_is_over(racing: Racing) -> None:
    racing.challenge()
    racing.judge(None)
    assert alias_for(racing.run, None) == "challenger"


def test_a_race_that_is_not_judged_in_time_holds_up_nobody(racing: Racing, monkeypatch: pytest.MonkeyPatch) -> None:
    racing.challenge()
    days, now = 89, time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    with pytest.raises(RaceRuns):
        alias_for(racing.run, None)
    days = 91
    assert alias_for(racing.run, None) == "challenger"


def test_a_challenger_that_joined_after_the_verdict_races_anew(racing: Racing) -> None:
    racing.challenge()
    racing.judge(None)
    racing.challenge("challenger:forest", 3)
    with pytest.raises(RaceRuns, match="version 2, 3 races"):
        alias_for(racing.run, None)


def test_a_winner_is_waited_for_until_it_is_champion(racing: Racing) -> None:
    racing.challenge()
    racing.judge(2)
    with pytest.raises(RaceRuns, match="version 2 has won its race, and its roll-out is waited for"):
        alias_for(racing.run, None)
    racing.registry.move("canary", 2, share=0.1, **racing.by)
    with pytest.raises(RaceRuns, match="is being rolled out"):
        alias_for(racing.run, None)
    racing.registry.move("champion", 2, **racing.by)
    assert alias_for(racing.run, None) == "challenger"


def test_a_winner_that_challenges_no_more_is_not_waited_for(racing: Racing) -> None:
    racing.challenge()
    racing.judge(2)
    racing.registry.retire("challenger", **racing.by)
    assert alias_for(racing.run, None) == "challenger"


def test_a_winner_that_nobody_answered_for_in_time_is_not_waited_for(racing: Racing) -> None:
    racing.challenge()
    racing.judge(2, days_ago=4)
    assert alias_for(racing.run, None) == "challenger"


def test_a_challenger_that_cannot_be_loaded_keeps_nobody_waiting(racing: Racing) -> None:
    racing.challenge()
    racing.registry.client.delete(racing.run.names.bundle(2))
    assert alias_for(racing.run, None) == "challenger"


def test_where_bundles_become_champion_at_once_nobody_waits(racing: Racing) -> None:
    racing.challenge()
    assert alias_for(racing.with_rules(racing.run, promotion="at_once"), None) == "champion"


def test_a_team_may_have_it_replaced(racing: Racing) -> None:
    racing.challenge()
    assert alias_for(racing.with_rules(racing.run, meanwhile="replace"), None) == "challenger"


def test_a_team_may_have_it_joined_until_no_more_fit(racing: Racing) -> None:
    run = racing.with_rules(racing.run, meanwhile="join")
    assert alias_for(run, None) == "challenger"
    racing.challenge()
    joined = alias_for(run, None)
    assert joined == "challenger:r_scheduled__2026_11_02t03_00_00_00_00"
    racing.registry.move(joined, 3, **racing.by)
    for i in range(MOST_BESIDE - 2):
        racing.registry.move(f"shadow:s{i}", 1, **racing.by)
    with pytest.raises(RaceRuns, match="version 2, 3 races"):
        alias_for(run, None)


def test_a_run_of_airflow_says_what_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("airflow", reason="Airflow is a dependency group of its own")
    monkeypatch.syspath_prepend(str(PROJECT / "dags"))
    from airflow.sdk.api.datamodels._generated import DagRunType
    from riskflow_dags.task import causes, who

    def event(name: str) -> Any:
        return SimpleNamespace(asset=SimpleNamespace(name=name))

    both = [event("card_fraud/labels"), event("card_fraud/drift"), event("card_fraud/labels")]
    by_assets = SimpleNamespace(consumed_asset_events=both, run_type=DagRunType.ASSET_TRIGGERED)
    by_hand = SimpleNamespace(consumed_asset_events=[], run_type=DagRunType.MANUAL, triggering_user_name="ann")
    by_clock = SimpleNamespace(consumed_asset_events=[], run_type=DagRunType.SCHEDULED)
    assert [causes(run) for run in (by_assets, by_hand, by_clock)] == [["drift", "labels"], ["manual"], ["scheduled"]]
    assert [who(run) for run in (by_assets, by_hand, by_clock)] == [
        "airflow: drift, labels", "airflow: ann", "airflow: scheduled",
    ]  # fmt: skip
