"""What several groups of commands need."""

from __future__ import annotations

from riskflow.plan import Plan


def load_plan(usecase: str) -> Plan:
    """The checked plan of a use case in the configured folder."""
    from riskflow.settings import settings
    from riskflow.usecase import load_usecase

    return Plan.of(load_usecase(usecase, settings().usecases))
