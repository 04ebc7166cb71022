"""What scoring promises: the same bytes however a block is cut, layers that listen to each other, rules on top."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batch.export import onnx_parity, to_onnx
from riskflow.bundle import Bundle
from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.errors import BundleRefused, RiskflowError
from riskflow.policy import APPROVE, DECLINE, REVIEW
from riskflow.scoring import Calibration, Scorer, TextCodes, model_matrix
from tests.unit.bundle_cases import (
    NOTES,
    ROWS,
    boosted,
    bundle,
    columns,
    linear,
    plan,
    policy_numbers,
    rules_only,
    trained,
)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(plan(), bundle())


def in_blocks(scorer: Scorer, rows: Columns, size: int) -> Columns:
    parts = range(0, n_rows(rows), size)
    return concat([scorer.golden(take(rows, np.arange(i, min(i + size, n_rows(rows))))) for i in parts])


def same_bytes(a: Columns, b: Columns) -> bool:
    def raw(column: Any) -> Any:
        return column.values() if isinstance(column, Text) else column.tobytes()

    return {n: raw(c) for n, c in a.items()} == {n: raw(c) for n, c in b.items()}


@pytest.mark.parametrize("size", [1, 2, 7, 64, 512])
def test_a_row_scores_the_same_however_the_block_was_cut(scorer: Scorer, size: int) -> None:
    rows, _ = columns(700, seed=5)
    assert same_bytes(in_blocks(scorer, rows, size), scorer.golden(rows))


def test_the_cut_test_can_fail_without_padding(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpadded(inputs: Any, values: Any, rows: int) -> Any:
        return model_matrix(inputs, values, rows)[:rows]

    rows, _ = columns(700, seed=5)
    whole = scorer.golden(rows)
    monkeypatch.setattr("riskflow.scoring.model_matrix", unpadded)
    alone = in_blocks(scorer, rows, 1)
    assert not np.array_equal(alone["model.final"], whole["model.final"])


def test_scores_are_the_estimators_calibrated_and_rounded(scorer: Scorer) -> None:
    fitted, values = trained()
    scored = scorer.score(columns()[0])
    for name, estimator in fitted.items():
        expected = estimator.predict_proba(model_matrix(plan().model_inputs(name), values, ROWS))[:, 1]
        np.testing.assert_allclose(scored.outputs[name], expected, atol=1e-5)
    points = bundle().calibration
    assert points is not None
    expected = np.round(np.interp(scored.outputs["final"], points["x"], points["y"]), 6)
    np.testing.assert_array_equal(scored.score, expected)


def test_actions_follow_the_score_and_the_rules(scorer: Scorer) -> None:
    rows, _ = columns()
    scored = scorer.score(rows)
    burst, trusted = scored.hits
    assert set(scored.action[burst]) == {DECLINE}
    assert set(scored.action[trusted & ~burst]) == {APPROVE}
    rest = ~burst & ~trusted
    np.testing.assert_array_equal(scored.action[rest] == REVIEW, scored.score[rest] >= policy_numbers()["review"])
    bounds = policy_numbers()["bands"]
    for score, band in zip(scored.score, scored.band, strict=True):
        assert scored.band_names[band] == [name for name, bound in bounds if bound <= score][-1]
    np.testing.assert_array_equal(scored.flagged, np.flatnonzero(scored.action != APPROVE))


def test_no_rows_are_no_scores(scorer: Scorer) -> None:
    scored = scorer.score(columns(0)[0])
    assert len(scored.score) == len(scored.action) == 0
    assert scored.reasons() == []


def test_a_bundle_of_rules_scores_zero_and_decides_by_rules() -> None:
    scored = Scorer(plan(), rules_only()).score(columns()[0])
    assert set(scored.score) == {0.0}
    assert set(scored.action) == {APPROVE, DECLINE}
    assert scored.reasons()[0] == ["many payments in an hour"]


def test_a_row_that_cannot_be_scored_is_nan_and_reviewed() -> None:
    fragile = linear()[1:].fit(np.random.default_rng(0).random((50, 4)), np.arange(50) % 2)
    made = {**bundle().files, "final.onnx": to_onnx(fragile, 4)}
    scored = Scorer(plan(), Bundle.of({**bundle().manifest, "calibration": None}, made)).score(columns(50)[0])
    missing = np.isnan(np.asarray(columns(50)[0]["amount"]))
    np.testing.assert_array_equal(np.isnan(scored.score)[missing], True)
    assert set(scored.action[missing & ~scored.hits.any(axis=0)]) == {REVIEW}


def test_texts_become_their_place_in_the_dictionary() -> None:
    codes = TextCodes(NOTES)(Text.of_strings(["rent", None, "gift", "unheard", "", "other"]))
    assert codes.tolist() == [1, -1, 0, -1, -1, 2]
    assert TextCodes([])(Text.of_strings(["rent"])).tolist() == [-1]
    with pytest.raises(BundleRefused, match="twice"):
        TextCodes(["a", "a"])


def test_huge_values_stay_finite_and_nan_stays_nan() -> None:
    matrix = model_matrix(["a"], {"a": np.array([np.inf, -1e300, np.nan, 5.0])}, 4)
    assert matrix[:, 0].tolist()[:2] == pytest.approx([1e18, -1e18])
    assert np.isnan(matrix[2, 0])
    assert model_matrix(["a"], {"a": np.array([3.0])}, 1).shape == (2, 1)


def test_a_missing_column_is_named(scorer: Scorer) -> None:
    rows = columns(3)[0]
    del rows["to_usual"]
    with pytest.raises(KeyError, match="to_usual"):
        scorer.score(rows)


@pytest.mark.parametrize("points", [{"x": [0, 1], "y": [0]}, {"x": [], "y": []}, {"x": [0, 1], "y": [1, 0]}])
def test_a_calibration_that_falls_is_refused(points: dict[str, list[float]]) -> None:
    with pytest.raises(BundleRefused, match="calibration"):
        Calibration.of(points)


def test_a_model_that_is_no_model_is_refused() -> None:
    for content in (
        b"not onnx",
        to_onnx(boosted().fit(np.random.default_rng(0).random((60, 9)), np.arange(60) % 2), 9),
    ):
        broken = dataclasses.replace(bundle(), files={**bundle().files, "final.onnx": content})
        with pytest.raises(BundleRefused, match="model 'final'"):
            Scorer(plan(), broken)


CANDIDATES = [
    boosted,
    linear,
    lambda: RandomForestClassifier(20, max_depth=8, random_state=0),
    lambda: VotingClassifier(
        [("a", HistGradientBoostingClassifier(max_iter=10)), ("b", linear())], voting="soft", weights=[2, 1]
    ),
]


@pytest.mark.parametrize("make", CANDIDATES)
def test_onnx_gives_what_scikit_learn_gives(make: Any) -> None:
    rows, fraud = columns()
    inputs = plan().model_inputs("shop_model")
    matrix = model_matrix(inputs, rows, ROWS)
    matrix = np.nan_to_num(matrix) if make is CANDIDATES[2] else matrix
    estimator = make().fit(matrix, fraud)
    assert onnx_parity(estimator, to_onnx(estimator, len(inputs)), matrix) < 1e-5


def test_parity_shows_a_forest_that_meets_nan_itself() -> None:
    rows, fraud = columns()
    matrix = model_matrix(plan().model_inputs("shop_model"), rows, ROWS)
    forest = RandomForestClassifier(20, max_depth=8, random_state=0).fit(matrix, fraud)
    assert onnx_parity(forest, to_onnx(forest, matrix.shape[1]), matrix) > 1e-3


def test_three_classes_are_refused() -> None:
    model = boosted().fit(np.arange(90.0).reshape(-1, 1), np.arange(90) % 3)
    with pytest.raises(RiskflowError, match="not 0 and 1"):
        to_onnx(model, 1)


def test_categories_that_onnx_cannot_say_are_refused_by_name() -> None:
    rows, fraud = columns()
    matrix = np.nan_to_num(model_matrix(plan().model_inputs("shop_model"), rows, ROWS))
    matrix[:, 0] = np.arange(ROWS) % 5
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]).fit(matrix, fraud)
    with pytest.raises(RiskflowError, match="categorical_features, which ONNX cannot say"):
        to_onnx(make_pipeline(StandardScaler(), model), matrix.shape[1])


def test_scoring_imports_nothing_of_training() -> None:
    code = "import sys, riskflow.scoring, riskflow.bundle, riskflow.registry, riskflow.explain;"
    code += "print([m for m in ('sklearn', 'polars', 'airflow', 'onnx', 'skl2onnx', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
