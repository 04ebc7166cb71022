"""What warming up leaves to compile while events wait: nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from riskflow.settings import PROJECT

# In a process of its own, because other tests compile as well: one event's way through intake and both stages.
WAY = """
import sys, time
import numpy as np
from numba.core.dispatcher import Dispatcher
from riskflow import evaluate, wire
from riskflow.columns import partition_of, take
from riskflow.events import Decoder
from riskflow.warmup import warm_up
from tests import support
from tests.integration.worker import event

def compiled():
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(("riskflow.", "observe_"))]
    loops = {f for m in modules for f in vars(m).values() if isinstance(f, Dispatcher)}
    return {(f.__module__, f.__name__, str(s)) for f in loops for s in f.signatures}

def sent(columns, by):
    order = np.argsort(partition_of(columns[by], 3), kind="stable")
    [(received, _)] = wire.decode_all([wire.encode(take(columns, order), {})])
    return received

plan = support.plan_of("card_fraud")
warm_up(plan)
before = compiled()
assert before
decoder = Decoder(plan, plan.scored)
columns = decoder.columns([decoder.message(event(f"e{i}"), 1000 * int(time.time())) for i in range(5)])
failures = evaluate.Failures()
for stage in plan.stages:
    columns = sent(columns, stage.entity.field)
    if stage.index == 0:
        evaluate.start(plan, columns, failures)
    entities, slots = evaluate.entities_of(stage, columns)
    columns = evaluate.observe(plan, stage, columns, slots, [None] * len(entities), {0: 0}, failures).columns
print(*sorted(compiled() - before), sep="\\n")
"""


@pytest.mark.timeout(120)
def test_nothing_is_compiled_after_warming_up() -> None:
    out = subprocess.run([sys.executable, "-c", WAY], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == []
