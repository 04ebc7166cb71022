"""Whether workers run: an answer that Kafka could not give is not an empty group."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NodeNotReadyError,
)

from batch import stopped
from riskflow.errors import NotReady

WORKING = {"error": None, "members": [{"group_instance_id": "g1-0", "member_id": "x"}, {"member_id": "y"}]}


def asked(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> list[str]:
    """Kafka gives these answers, the last one for good."""
    left = list(answers)

    def describe_groups(groups: list[str]) -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return {groups[0]: answer}

    monkeypatch.setattr(stopped, "ANSWER_S", 0.05)
    monkeypatch.setattr("time.sleep", lambda _: None)
    cluster: Any = SimpleNamespace(admin=SimpleNamespace(describe_groups=describe_groups))
    return stopped.members(cluster, "g1")


def test_members_are_named_by_their_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, WORKING) == ["g1-0", "y"]


@pytest.mark.parametrize(
    "answer", [GroupIdNotFoundError("g1"), {"error": str(GroupIdNotFoundError("no g1")), "members": []}]
)
def test_a_group_that_kafka_does_not_know_has_no_members(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    assert asked(monkeypatch, answer) == []


def test_a_coordinator_that_is_starting_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = {"error": str(CoordinatorLoadInProgressError("")), "members": []}
    assert asked(monkeypatch, CoordinatorNotAvailableError(), loading, WORKING) == ["g1-0", "y"]


@pytest.mark.parametrize("error", [NodeNotReadyError("no node"), KafkaError("?"), CoordinatorNotAvailableError()])
def test_no_answer_is_not_an_empty_group(monkeypatch: pytest.MonkeyPatch, error: KafkaError) -> None:
    with pytest.raises(NotReady, match="cannot say who works"):
        asked(monkeypatch, error)
    with pytest.raises(NotReady, match="cannot say who works"):
        asked(monkeypatch, {"error": str(error), "members": []})
