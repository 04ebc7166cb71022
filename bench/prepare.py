"""Topics, heads and a champion for a measurement."""

from __future__ import annotations

from batch import topics
from cli.common import load_plan
from riskflow.names import Names
from riskflow.settings import Settings


def prepare(usecase: str, conf: Settings) -> Names:
    """Makes what a worker needs under the settings' prefix; returns the names."""
    plan = load_plan(usecase)
    topics.make(plan, conf)
    return Names(plan.name, 1, conf.topic_prefix)
