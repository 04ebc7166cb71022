"""Claim, load, send and commit under every fault that fits into memory: sequences of steps, made up by hypothesis.

The workers are the real lanes, stages, blocks and heads; Kafka and Redis are in tests/model. After each sequence every
event has been applied once at each stage, in the order of the log; every output is there, and those of one event are
equal. A few hundred sequences run here; RISKFLOW_MODEL_SEQUENCES=10000 asks for more, and `make chaos` does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, given, settings

from riskflow.wire import decode
from tests.model.clock import JumpingLoop
from tests.model.rules import RULES
from tests.model.sequences import SEQUENCES, SHOWN_BY, seeded
from tests.model.steps import Run, run
from tests.model.store import Rules
from tests.model.world import NAMES, READ

LONG = int(os.environ.get("RISKFLOW_MODEL_SEQUENCES", "10000"))
SHORT = 200
HALVES = 2  # of the long run, for two processes


@pytest.fixture(scope="module")
def loop() -> Iterator[JumpingLoop]:
    """One loop for all sequences, and no word of workers that end as they should."""
    kept = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    made = JumpingLoop()
    yield made
    made.close()
    structlog.configure(**kept)


@settings(max_examples=SHORT, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=SEQUENCES)
def test_every_event_counts_once_whatever_happens(loop: JumpingLoop, steps: list[tuple[str, int, int]]) -> None:
    assert run(loop, steps) == []


@pytest.mark.long
@pytest.mark.parametrize("half", range(HALVES))
def test_every_event_counts_once_in_thousands_of_sequences(loop: JumpingLoop, half: int) -> None:
    for seed in range(half, LONG, HALVES):
        assert run(loop, seeded(seed)) == [], f"seed {seed}: {seeded(seed)}"


@pytest.mark.parametrize("rule", sorted(SHOWN_BY))
def test_a_sequence_that_shows_a_rule_does_no_harm_with_it(loop: JumpingLoop, rule: str) -> None:
    assert run(loop, SHOWN_BY[rule]) == []


@pytest.mark.parametrize("rule", sorted(SHOWN_BY))
def test_a_sequence_shows_what_a_rule_is_good_for(
    loop: JumpingLoop, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules()
    RULES[rule](monkeypatch, rules)
    assert run(loop, SHOWN_BY[rule], rules) != []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", sorted(set(RULES) - set(SHOWN_BY)))
def test_the_model_misses_a_rule_that_is_switched_off(
    loop: JumpingLoop, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules()
    RULES[rule](monkeypatch, rules)
    assert any(run(loop, seeded(seed), rules) for seed in range(LONG)), f"nothing shows that {rule}"


def test_blocks_of_every_stage_say_after_which_one_they_come(loop: JumpingLoop) -> None:
    """Or a block that is missing between them would not be."""

    async def followed() -> list[tuple[str, int]]:
        made = Run()
        await made.world.start(READ)
        for _ in range(3):
            await made.payments(0, 3)
            await made.deliver(4, 3)
        blocks = [r for topic in (NAMES.by("shop"), NAMES.rows) for r in made.world.broker.topic(topic)]
        return [(source, after) for r in blocks for source, after, _ in decode(r.value)[1]["from"]]

    found = loop.run_until_complete(followed())
    again = [after for i, (source, after) in enumerate(found) if source in [s for s, _ in found[:i]]]
    assert again
    assert min(again) >= 0
