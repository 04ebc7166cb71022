"""pipeline.yaml: typed and checked; an error names file, line and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.pipeline import Pipeline
from cli.common import load_plan
from riskflow.errors import DeclarationError
from tests.unit.training_cases import small_plan


def load(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return Pipeline.load(path)


def test_the_shipped_file_fits_its_models() -> None:
    plan = load_plan("card_fraud")
    pipeline = Pipeline.of(plan)
    assert pipeline.lines
    assert pipeline.candidates(plan) == ["random_forest", "hist_gradient_boosting", "logistic_regression"]


def test_every_line_has_a_default(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "# nothing\n")
    assert pipeline.span_ms == 28 * 86_400_000
    assert (pipeline.gates.average_precision, pipeline.gates.onnx_parity) == (0.95, 1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("span: 28d\nmaturty: 7d\n", r"pipeline\.yaml, line 2, maturty: .*unknown field.*Did you mean maturity"),
        ("span: four weeks\n", r"line 1, span: 'four weeks' is not a number and a unit\. Write for example"),
        ("span: 28d\n\nvalidation: 20d\n", r"line 3, validation: is more than half of the span \(28d\)"),
        ("gates:\n  onnx_parity: small\n", r"line 2, gates\.onnx_parity: expected `float`"),
        ("gates:\n  most_missing: 1.5\n", r"line 2, gates\.most_missing: expected `float` <= 1"),
        ("gates:\n  lowest_label_rate: 0.5\n", r"line 2, gates\.lowest_label_rate: is above highest_label_rate"),
        ("folds: 1\n", r"line 1, folds: expected `int` >= 2"),
        ("candidates:\n  - a\n  - a\n", r"line 3, candidates\[1\]: 'a' is there twice"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        load(tmp_path, text)


def test_a_candidate_that_no_model_has_is_refused(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "candidates: [linear, forrest]\n")
    with pytest.raises(DeclarationError, match=r"line 1, candidates\[1\]: 'forrest' is a candidate of no model"):
        pipeline.check(small_plan())
