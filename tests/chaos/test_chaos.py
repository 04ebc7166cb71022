"""Nothing is lost or counted twice, whatever is killed, frozen or moved while events flow.

Longer runs: `riskflow chaos` and `make chaos`. RISKFLOW_CHAOS_SEED gives these tests another seed.
"""

from __future__ import annotations

import json
import os

import pytest

from chaos.run import Options, run

SEED = int(os.environ.get("RISKFLOW_CHAOS_SEED", "1"))

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def test_every_event_has_one_score_whatever_is_killed_frozen_or_moved() -> None:
    faults = {"zombies": 1, "swaps": 1}  # a zombie moves all partitions there and back
    found = run(Options(events=6_000, kills=6, seed=SEED, per_s=1_000, faults=faults), print)
    print(json.dumps(found))
    assert found["clean"], {k: found[k] for k in ("wrong", "examples", "troubles", "kills_counted")}
    assert found["events"] == found["scored"] >= 6_000
    assert found["kills_counted"] >= 6
    assert found["faults"] == faults
    assert found["counts"]["copies_without_effect"] > 0
    assert found["counts"]["copies_beyond_the_last_32"] > 0
    assert found["counts"]["bundles_used"] >= 2
