"""Curves of a model card against plain counts; the cost curve is there when the policy declares costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from batch.card.evidence import curves
from batch.card.pictures import pictures
from tests.unit.training_cases import rows

COSTS = {"review": 4.0, "missed_fraud": 120.0, "wrong_decline": 30.0}


@pytest.mark.parametrize("weighted", [False, True])
def test_each_point_is_what_counting_from_its_threshold_on_gives(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    data = rows()
    weight = rng.choice([1.0, 10.0], len(data)) if weighted else np.ones(len(data))
    data = replace(data, weight=weight if weighted else None)
    score = np.round(np.clip(0.4 * data.fraud + rng.random(len(data)) * 0.6, 0, 1), 2)  # many are equal

    found = curves(data, score, {"wishes": {"costs": COSTS}})["thresholds"]

    frauds = (weight * data.fraud).sum()
    for i, threshold in enumerate(found["threshold"]):
        flagged = score >= threshold
        alerts, hits = weight[flagged].sum(), (weight * data.fraud)[flagged].sum()
        assert found["recall"][i] == pytest.approx(hits / frauds)
        assert found["precision"][i] == pytest.approx(hits / alerts)
        assert found["cost"][i] == pytest.approx((frauds - hits) * 120 + alerts * 4)


def test_the_cost_curve_is_drawn_where_costs_are_declared() -> None:
    data = rows()
    score = np.clip(0.4 * data.fraud + np.random.default_rng(3).random(len(data)) * 0.6, 0, 1)
    drawn = {}
    for name, wishes in (("costs", {"costs": COSTS}), ("none", {})):
        about = {"curves": curves(data, score, {"wishes": wishes}), "validation": {"frauds": 10, "rows": 100}}
        drawn[name] = pictures(about, 0.3, None)
    assert drawn["costs"].keys() - drawn["none"].keys() == {"cost"}
    assert "threshold of review" in drawn["costs"]["cost"]
