"""From challenger to champion: judged once, never unwatched, and what was thrown out stays out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch import canary_pairs, promote
from batch.pipeline_promotion import RampFile
from batch.promote import GuardFailed, Stopped, Superseded, Unwatched, crown, guard, race, ramp, take_back_late
from batch.steps import Asked, step
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from tests.unit.promote_cases import DAY, START, Installation, installed

ASKED = Asked("card_fraud", "promote", "any", "manual__1", {"why": "it is time"}, who="airflow: ann")
SAME = ["approve", "review", "approve", "approve", "decline"] * 120
DECLINED = ["decline"] * 600


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return installed(tmp_path, monkeypatch)


@pytest.fixture
def won(made: Installation) -> tuple[Installation, Any]:
    """A challenger that has won its race, and what the race said."""
    version = made.publish("challenger")
    made.raced(version, knows=version)
    raced = race(made.run)
    assert raced["winner"] == version
    return made, raced


# ---- the race --------------------------------------------------------------------------------------------------------


def test_a_race_is_judged_once_and_its_verdict_kept(won: tuple[Installation, Any]) -> None:
    made, raced = won
    (kept,) = (made.run.conf.home / "races" / "card_fraud").glob("*")
    assert json.loads(kept.read_text())["evidence"] == raced["evidence"]
    assert raced["champion"] == {"version": 1, "number": 1}
    moves = made.registry.aliases().values()
    assert raced["evidence"]["bundles"] == {str(move.version): move.bundle_hash for move in moves}
    assert raced["evidence"]["last_ms"] - raced["evidence"]["first_ms"] == 3 * DAY
    made.raced(2, from_day=0, to_day=14)  # whatever comes later
    assert race(made.run) == raced


def test_a_verdict_of_before_redis_was_emptied_counts_for_nobody(won: tuple[Installation, Any]) -> None:
    """Versions and moves are counted from 1 again; others stand under the same numbers."""
    made, _ = won
    made.registry.client.flushall()
    made.publish("champion")
    assert made.publish("challenger") == 2
    assert [move.number for move in made.registry.history()] == [1, 2]
    assert race(made.run)["winner"] is None
    assert len(list((made.run.conf.home / "races" / "card_fraud").glob("*"))) == 1, "what was judged then is kept"


def test_what_a_challenger_has_said_before_its_move_does_not_count(made: Installation) -> None:
    """Somebody may have looked at it, taken the others off, and let this one challenge anew."""
    version = made.publish("challenger")
    made.raced(version, knows=version)
    made.move("challenger:again", version)
    made.retire("challenger")
    assert race(made.run)["waits"].startswith("no mature event")
    made.raced(version, knows=version)
    assert race(made.run)["winner"] == version


def test_a_race_that_waits_keeps_nothing(made: Installation) -> None:
    version = made.publish("challenger")
    made.raced(version, from_day=11)
    raced = race(made.run)
    assert raced["winner"] is None
    assert "of 3.0 days of the horizon are mature" in raced["waits"]
    assert not (made.run.conf.home / "races").exists()


def test_events_that_come_days_late_do_not_begin_a_race(made: Installation) -> None:
    """Three of 600, ten days older than the rest."""
    version = made.publish("challenger")
    made.raced(version, from_day=10)
    assert "of 3.0 days of the horizon are mature" in race(made.run)["waits"]
    made.raced(version, to_day=0.1)
    assert "of 3.0 days of the horizon are mature" in race(made.run)["waits"]


def test_without_champion_or_challengers_nobody_races(made: Installation) -> None:
    assert race(made.run)["waits"] == "nobody challenges"
    made.registry.client.flushall()
    assert race(made.run)["waits"] == "there is no champion"


def test_a_challenger_that_was_judged_races_again_on_later_events_only(made: Installation) -> None:
    """After three have lost at a third of alpha, two are taken off: the third must not be judged on the same events."""
    versions = [made.publish(f"challenger:v{v}") for v in (2, 3, 4)]
    made.raced(*versions, to_day=3)
    lost = race(made.run)
    assert (lost["winner"], lost["waits"]) == (None, "")
    assert len(lost["evidence"]["standings"]) == 3
    made.retire("challenger:v3")
    made.retire("challenger:v4")

    again = race(made.run)
    assert again["winner"] is None
    assert "no mature event" in again["waits"]
    made.raced(2, knows=2, from_day=3)
    later = race(made.run)
    assert later["winner"] == 2
    assert later["evidence"]["first_ms"] >= lost["evidence"]["last_ms"] > START
    assert later["evidence"]["last_ms"] - later["evidence"]["first_ms"] == 3 * DAY


def test_a_newcomer_races_on_events_on_which_others_were_judged(made: Installation) -> None:
    made.publish("challenger")
    made.raced(2)
    lost = race(made.run)
    assert lost["winner"] is None
    made.publish("challenger")
    made.raced(3, knows=3)
    won = race(made.run)
    assert won["winner"] == 3
    assert won["evidence"]["first_ms"] == lost["evidence"]["first_ms"]


# ---- the ramp --------------------------------------------------------------------------------------------------------


def test_a_winner_becomes_champion_by_its_shares_and_is_canary_and_challenger_no_longer(
    won: tuple[Installation, Any],
) -> None:
    made, raced = won
    for share in (0.1, 1.0):
        assert ramp(made.run, raced, share)["share"] == share
        assert ramp(made.run, raced, share)["share"] == share  # done again
        assert "0 of 500 events" in guard(made.run, raced)["waits"]
        made.decided(2, SAME, SAME)
        seen = guard(made.run, raced)
        assert (seen["waits"], seen["events"], seen["entities"]) == ("", 600, 100)
    crowned = crown(made.run, raced, "airflow: ann", "it is time")
    assert made.standing == {"champion": 2}
    assert made.registry.history("champion")[-1].who == "airflow: ann"
    assert crown(made.run, raced) == crowned  # done again


def test_only_two_topics_are_archived_for_a_look_and_older_days_are_not_opened(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME, SAME)
    for old in (made.run.conf.lake_folder / made.run.names.shadow).glob("date=2026-01-*/*.parquet"):
        old.write_bytes(b"broken")
    assert guard(made.run, raced)["waits"] == ""
    assert made.archived_topics[-1] == [made.run.names.feed("events"), made.run.names.shadow]


def test_events_of_an_earlier_share_do_not_count(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME, SAME)
    time.sleep(0.01)
    ramp(made.run, raced, 1.0)
    assert "0 of 500 events" in guard(made.run, raced)["waits"]


def check_thrown_out(made: Installation, said: str) -> None:
    """Neither canary nor challenger, the history says why, and the next run does not propose it again."""
    assert made.standing == {"champion": 1}
    assert said in made.registry.history()[-1].why
    assert race(made.run)["waits"] == "nobody challenges"
    made.publish("challenger")  # a new publication may
    assert race(made.run)["waits"].startswith("no mature event")


@pytest.mark.parametrize("shares", [[0.1, 1.0], [1.0]])
def test_a_canary_that_declines_everything_is_taken_back_at_any_share_and_not_ramped_again(
    shares: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = installed(tmp_path, monkeypatch, RampFile(shares=shares))
    version = made.publish("challenger")
    made.raced(version, knows=version)
    raced = race(made.run)
    ramp(made.run, raced, shares[0])
    made.decided(2, DECLINED[:30], SAME[:30])  # few events are enough for what is plain
    with pytest.raises(GuardFailed, match=r"declines: 1\.0000 of its events"):
        guard(made.run, raced)
    assert "rolled_back" in caplog.text
    check_thrown_out(made, "declines: 1.0000")


def test_a_canary_that_shows_too_little_within_the_patience_is_thrown_out(
    won: tuple[Installation, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME[:5], SAME[:5])
    pass_time(monkeypatch, duration_ms(made.run.pipeline.file.ramp.patience) + 1)
    with pytest.raises(GuardFailed, match="5 of 500 events"):
        guard(made.run, raced)
    check_thrown_out(made, "--alias challenger")


def pass_time(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    now = time.time
    monkeypatch.setattr(promote.time, "time", lambda: now() + ms / 1000)


def answer(name: str | None, why: str = "") -> dict[str, Any]:
    person = {"id": "7", "name": name} if name else None
    return {"chosen_options": ["Reject"], "params_input": {"why": why}, "responded_by_user": person}


@pytest.mark.parametrize(
    ("said", "who", "why"),
    [
        (answer("ben", "too dear"), "airflow: ben", "rejected: too dear"),
        (answer("ben"), "airflow: ben", "rejected: no reason given"),
        (answer(None), "airflow: ann", "rejected: nobody answered"),
    ],
)
def test_what_a_person_rejects_is_not_proposed_again(
    won: tuple[Installation, Any], said: dict[str, Any], who: str, why: str
) -> None:
    made, raced = won
    assert step("reject")(made.run, ASKED, raced, said) == {"version": 2, "retired": ["challenger"]}
    assert made.registry.history()[-1].who == who
    check_thrown_out(made, why)


def test_a_run_that_was_killed_while_it_threw_a_version_out_leaves_none_of_it(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.retire("challenger", who="guard")  # and here it was killed
    with pytest.raises(Stopped, match="challenges no more, by guard"):
        guard(made.run, raced)
    check_thrown_out(made, "a wish")


def test_who_takes_the_canary_off_ends_its_race(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.retire("canary")
    with pytest.raises(GuardFailed, match="no canary any more, by ann: a wish"):
        guard(made.run, raced)
    check_thrown_out(made, "no canary any more")


def test_a_challenger_that_is_taken_off_before_its_ramp_does_not_decide(won: tuple[Installation, Any]) -> None:
    made, raced = won
    made.retire("challenger")
    with pytest.raises(Stopped, match="challenges no more, by ann: a wish"):
        ramp(made.run, raced, 0.1)
    assert made.standing == {"champion": 1}


def test_a_newer_challenger_does_not_stop_the_one_that_has_won(won: tuple[Installation, Any]) -> None:
    """A retraining goes on while a person thinks."""
    made, raced = won
    made.publish("challenger")
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME, SAME)
    assert guard(made.run, raced)["waits"] == ""


def test_one_that_challenges_under_another_name_goes_on(won: tuple[Installation, Any]) -> None:
    made, raced = won
    made.move("challenger:again", 2)
    made.retire("challenger")
    ramp(made.run, raced, 0.1)
    assert made.standing["canary"] == 2


def test_the_canary_of_somebody_else_is_left_alone(won: tuple[Installation, Any]) -> None:
    made, raced = won
    made.move("canary", made.publish(None), share=0.5)
    with pytest.raises(Stopped, match="version 3 is, by ann"):
        ramp(made.run, raced, 0.1)
    assert race(made.run)["winner"] == 2
    assert made.standing == {"champion": 1, "challenger": 2, "canary": 3}


# ---- it fails safe ---------------------------------------------------------------------------------------------------


def test_a_guard_that_cannot_see_takes_the_canary_off_and_the_next_run_begins_its_ramp_anew(
    won: tuple[Installation, Any], caplog: pytest.LogCaptureFixture
) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    made.decided(2, SAME, SAME)
    newest = max((made.run.conf.lake_folder / made.run.names.shadow).glob("date=*/*.parquet"))
    whole = newest.read_bytes()
    newest.write_bytes(b"broken")
    with pytest.raises(Unwatched, match="cannot see what it does: BrokenFile"):
        guard(made.run, raced)
    assert made.standing == {"champion": 1, "challenger": 2}
    assert "rolled_back" in caplog.text

    newest.write_bytes(whole)
    assert race(made.run) == raced
    ramp(made.run, raced, 0.1)
    assert made.standing["canary"] == 2


def test_a_hiccup_stops_nobody(won: tuple[Installation, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME, SAME)
    errors = [OSError("Kafka is away"), OSError("still")]

    def bring(*_: Any) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(canary_pairs, "archive", bring)
    assert guard(made.run, raced)["waits"] == ""
    assert made.standing["canary"] == 2


def test_a_task_of_the_ramp_that_was_killed_is_followed_by_one_that_takes_the_canary_off(
    won: tuple[Installation, Any],
) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    assert step("take_back")(made.run, ASKED) == {"taken_back": 2}
    assert made.standing == {"champion": 1, "challenger": 2}
    assert step("take_back")(made.run, ASKED) == {"taken_back": None}
    with pytest.raises(GuardFailed, match="by guard: Its ramp has ended without a crown"):
        guard(made.run, raced)  # of a process that was believed to be dead
    assert made.standing == {"champion": 1, "challenger": 2}


def test_the_next_run_takes_off_what_an_earlier_one_left_behind(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    assert race(made.run) == raced
    assert made.standing == {"champion": 1, "challenger": 2}


def test_maintenance_takes_off_a_canary_whose_guard_is_dead(
    won: tuple[Installation, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    patience_ms = duration_ms(made.run.pipeline.file.ramp.patience)
    pass_time(monkeypatch, patience_ms)
    assert take_back_late(made.run) == {"taken_back": None}  # its guard has the first word
    pass_time(monkeypatch, promote.LATE_MS)
    assert take_back_late(made.run) == {"taken_back": 2}
    assert "its patience, 1d" in made.registry.history("canary")[-1].why


def test_a_canary_that_a_person_has_made_is_not_taken_off(made: Installation) -> None:
    made.move("canary", made.publish(None), share=0.5)
    race(made.run)
    assert step("take_back")(made.run, ASKED) == {"taken_back": None}
    assert made.standing["canary"] == 2


# ---- another champion ------------------------------------------------------------------------------------------------


STEPS: list[Callable[[Installation, Any], Any]] = [
    lambda made, raced: ramp(made.run, raced, 1.0),
    lambda made, raced: guard(made.run, raced),
    lambda made, raced: crown(made.run, raced),
]


@pytest.mark.parametrize("step_of_ramp", STEPS, ids=["ramp", "guard", "crown"])
def test_a_champion_that_somebody_has_moved_stops_the_ramp(
    won: tuple[Installation, Any], step_of_ramp: Callable[[Installation, Any], Any]
) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.decided(2, SAME, SAME)
    made.move("champion", made.publish(None))
    with pytest.raises(
        Superseded, match=r"beaten champion 1 \(move 1\), and champion is now version 3, by ann: a wish"
    ):
        step_of_ramp(made, raced)
    assert made.standing == {"champion": 3, "challenger": 2}
    assert race(made.run)["waits"].startswith("no mature event")


def test_a_champion_that_was_moved_away_and_back_stops_the_ramp_too(won: tuple[Installation, Any]) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    made.move("champion", made.publish(None))
    made.move("champion", 1)
    with pytest.raises(Superseded):
        crown(made.run, raced)


def test_nobody_is_crowned_who_is_not_canary(won: tuple[Installation, Any]) -> None:
    made, raced = won
    with pytest.raises(GuardFailed, match="nobody has made it one"):
        crown(made.run, raced)
    assert made.standing == {"champion": 1, "challenger": 2}


def test_what_ends_a_ramp_is_not_tried_again() -> None:
    assert all(error.final for error in (Stopped, GuardFailed, Unwatched, Superseded))
    assert issubclass(Stopped, RiskflowError)
