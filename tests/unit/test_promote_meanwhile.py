"""Somebody moves an alias between two steps of a promotion, or after one has looked and before it moves one itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch import promote
from batch.promote import GuardFailed, Superseded, crown, race, ramp
from tests.unit.promote_cases import Installation, installed

Won = tuple[Installation, Any]


@pytest.fixture
def won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Won:
    """A challenger, version 2, that has won its race, and what the race said."""
    made = installed(tmp_path, monkeypatch)
    made.raced(made.publish("challenger"), knows=2)
    return made, race(made.run)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Once, right before a step's own move, after it has looked at the aliases."""
    key, done = promote._key, []

    def acted(run: Any) -> Any:
        if not done:
            done.append(1)
            act()
        return key(run)

    monkeypatch.setattr(promote, "_key", acted)


@pytest.mark.parametrize("step_of_ramp", [lambda run, raced: ramp(run, raced, 1.0), crown], ids=["ramp", "crown"])
def test_a_champion_that_is_moved_at_the_last_moment_is_not_overruled(
    won: Won, step_of_ramp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    other = made.publish(None)
    meanwhile(monkeypatch, lambda: made.move("champion", other))
    with pytest.raises(Superseded):
        step_of_ramp(made.run, raced)
    assert made.standing == {"champion": other, "challenger": 2}


def test_nobody_is_crowned_whose_canary_a_person_takes_off_at_the_last_moment(
    won: Won, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    meanwhile(monkeypatch, lambda: made.retire("canary"))
    with pytest.raises(GuardFailed, match="no canary any more, by ann"):
        crown(made.run, raced)
    assert made.standing == {"champion": 1}


def test_the_canary_that_a_person_makes_at_the_last_moment_is_left_alone(
    won: Won, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    other = made.publish(None)
    meanwhile(monkeypatch, lambda: made.move("canary", other, 0.5))
    promote.take_back(made.run, "nobody guards it")
    assert made.standing == {"champion": 1, "challenger": 2, "canary": other}


def test_the_challenger_that_takes_the_alias_at_the_last_moment_is_left_alone(
    won: Won, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    other = made.publish(None)
    meanwhile(monkeypatch, lambda: made.move("challenger", other))
    assert promote.reject(made.run, raced, "ann", "no")["retired"] == []
    assert made.standing == {"champion": 1, "challenger": other}


def test_a_move_that_changes_nothing_for_the_step_keeps_it_from_nothing(
    won: Won, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raced = won
    ramp(made.run, raced, 1.0)
    other = made.publish(None)
    meanwhile(monkeypatch, lambda: made.move("shadow", other))
    assert crown(made.run, raced)["version"] == 2
    assert made.standing == {"champion": 2, "shadow": other}


def test_a_canary_that_a_person_takes_off_between_two_shares_is_not_put_on_again(won: Won) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.retire("canary")
    with pytest.raises(GuardFailed, match="no canary any more, by ann: a wish"):
        ramp(made.run, raced, 1.0)
    assert made.standing == {"champion": 1}


def test_one_that_a_person_lets_race_again_after_that_is_ramped_again(won: Won) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    made.retire("canary")
    made.move("challenger", 2)
    assert ramp(made.run, raced, 0.1)["share"] == 0.1


def test_a_canary_that_a_person_has_made_and_taken_off_is_no_word_against_it(won: Won) -> None:
    made, raced = won
    made.move("canary", 2, 0.05)
    made.retire("canary")
    assert ramp(made.run, raced, 0.1)["share"] == 0.1


def test_one_that_its_guard_took_off_is_ramped_anew(won: Won) -> None:
    made, raced = won
    ramp(made.run, raced, 0.1)
    promote.take_back(made.run, "nobody guards it")
    assert ramp(made.run, raced, 0.1)["share"] == 0.1
