"""pipeline.yaml: typed and checked; an error names file, line and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.gates import NotWorse, OnnxParity
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
    assert pipeline.gates == [NotWorse(metric="ap", margin=0.05), OnnxParity(most=1e-5)]
    assert pipeline.file.checks.rows.least == 2_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("span: 28d\nmaturty: 7d\n", r"pipeline\.yaml, line 2, maturty: .*unknown field.*Did you mean maturity"),
        ("span: four weeks\n", r"line 1, span: 'four weeks' is not a number and a unit\. Write for example"),
        ("span: 28d\n\nvalidation: 20d\n", r"line 3, validation: is more than half of the span \(28d\)"),
        ("gates:\n  - gate: onnx_parity\n    most: small\n", r"line 3, gates\[0\]\.most: expected `float`"),
        ("gates:\n  - {gate: leakage, most_ap: 1.5}\n", r"line 2, gates\[0\]\.most_ap: expected `float` <= 1"),
        ("gates:\n\n  - {gate: onnx_party}\n", r"line 3, gates\[0\]\.gate: invalid value 'onnx_party'"),
        ("gates:\n  - {gate: size, mots_mib: 3}\n", r"line 2, gates\[0\].*unknown field.*Did you mean most_mib"),
        ("gates: {onnx_parity: 1.0e-5}\n", r"line 1, gates: expected `array`, got `object`"),
        ("checks:\n  rows: {least: many}\n", r"line 2, checks\.rows\.least: expected `float \| null`"),
        ("label_maturity: {bank: soon}\n", r"line 1, label_maturity\.bank: 'soon' is not a number and a unit"),
        ("folds: 1\n", r"line 1, folds: expected `int` >= 2"),
        ("candidates:\n  - a\n  - a\n", r"line 3, candidates\[1\]: 'a' is there twice"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maintain: {lake: {scores: 41d}}", r"line 1, .*scores: '41d' .* span \(28d\) .*\(14d\)\. Keep it for 42d"),
        ("label_maturity: {bank: 45d}\nmaintain: {lake: {scores: 72d}}", r"line 2, maintain.lake.scores: .* 73d or"),
        ("promotion: race\nmaintain: {lake: {shadow: 7d}}", r"line 2, .*shadow: .*race.horizon \(14d\) .*for 28d"),
        (
            "maintain: {lake: {drift: 90d}}",
            r"line 1, maintain.lake.drift: .*Can go: scores, rejected, shadow, external",
        ),
        ("span: month\nmaintain: {lake: {scores: 1d}}", r"line 1, span: 'month'"),
    ],
)
def test_what_learning_and_races_read_is_kept(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ramp: {hold: 1h}\nrace: {horizon: soon}", r"line 2, race\.horizon: 'soon' is not a number and a unit"),
        ("race: {horizon: 2d}\nramp:\n  hold: long", r"line 3, ramp\.hold: 'long'"),
        (
            "promotion: race\nlabel_maturity: {chargeback: 76d}",
            r"race\.patience: '90d' is not longer than the horizon \(14d\) and the time .* \(76d\).* Give it 120d",
        ),
        ("promotion: approval\nrace: {patience: 21d}", r"line 2, race\.patience: '21d' is not longer"),
        ("\nramp: {shares: [0.5, 0.1]}", r"line 2, ramp\.shares: \[0\.5, 0\.1\] do not rise"),
        ("race: {meanwhile: sleep}", r"line 1, race\.meanwhile: invalid enum value 'sleep'"),
        ("search: {trials: 3, warm_start: champoin}", r"line 1, search\.warm_start: 'champoin' is no alias"),
    ],
)
def test_a_mistake_about_races_and_searches_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        load(tmp_path, text)


def test_what_is_kept_as_long_as_it_is_read_may_go(tmp_path: Path) -> None:
    load(tmp_path, "promotion: race\nmaintain: {lake: {scores: 42d, shadow: 28d, rejected: 1d, external: 1d}}")
    load(tmp_path, "maintain: {lake: {shadow: 1d}}")  # nothing races


def test_a_race_that_can_be_judged_within_its_patience_may_take_long(tmp_path: Path) -> None:
    load(tmp_path, "promotion: race\nlabel_maturity: {chargeback: 75d}")
    load(tmp_path, "promotion: race\nlabel_maturity: {chargeback: 120d}\nrace: {patience: 200d}")
    load(tmp_path, "promotion: race\nlabel_maturity: {chargeback: 120d}\nrace: {meanwhile: replace}")
    load(tmp_path, "label_maturity: {chargeback: 120d}")


def test_a_candidate_that_no_model_has_is_refused(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "candidates: [linear, forrest]\n")
    with pytest.raises(DeclarationError, match=r"line 1, candidates\[1\]: 'forrest' is a candidate of no model"):
        pipeline.check(small_plan())


CASES = [
    ("checks: {label_rate: {least: 0.5, most: 0.1}}", r"line 1, checks\.label_rate: wants at least 0\.5 and at mo"),
    ("checks:\n  fields:\n    amuont: {most: 5}", r"line 3, checks\.fields\.amuont: 'amuont' is no field of events"),
    ("checks: {fields: {channel: {most: 5}}}", r"checks\.fields\.channel: 'channel' is no number"),
    ("gates: [{gate: metric}]", r"gates\[0\]\.least: has no bound"),
    ("gates: [{gate: metric, metric: app, least: 1}]", r"gates\[0\]\.metric: 'app' is no figure"),
    ("gates: [{gate: segments, by: [amount], least_recall: 0.1}]", r"gates\[0\]\.by: 'amount' is no field with groups"),
    ("gates: [{gate: segments, by: [channel]}]", r"gates\[0\]: has no groups or no bound"),
    ("gates: [{gate: custom, call: no.where}]", r"gates\[0\]\.call: 'no\.where' cannot be called"),
    ("gates: [{gate: sanity, rows: [{name: a, values: {}}]}]", r"gates\[0\]\.rows\[0\]: expects nothing"),
    (
        "gates:\n - gate: sanity\n   rows:\n   - {name: a, most: 1, values: {note: 1}}",
        r"line 4, gates\[0\]\.rows\[0\]\.values\.note: 1\.0 is no text",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CASES)
def test_checks_and_gates_are_held_against_the_plan(tmp_path: Path, text: str, message: str) -> None:
    pipeline = load(tmp_path, text)
    with pytest.raises(DeclarationError, match=message):
        pipeline.check(small_plan())
