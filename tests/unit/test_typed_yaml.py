"""Errors of YAML files: with the use case, the line, and the words that are allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from batch.pipeline import FILE, Pipeline, PipelineFile
from riskflow.allowed import allowed_words
from riskflow.errors import DeclarationError
from riskflow.policy import Policy
from riskflow.typed_yaml import read_typed


def refusal(tmp_path: Path, text: str, file: str = FILE) -> str:
    path = tmp_path / "usecases" / "refunds" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DeclarationError) as error:
        (Pipeline if file == FILE else Policy).load(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "place", "allowed"),
    [
        ("\npromotion: rac", "line 2, promotion", "Did you mean race? Allowed: approval, at_once, race"),
        ("watch: {source: row}", "line 1, watch.source", "Did you mean rows? Allowed: rows, snapshots"),
        ("watch: {source: 7d}", "line 1, watch.source", ". Allowed: rows, snapshots"),
        ("gates:\n- {gate: not_worse, metric: apx}", "line 2, gates[0].metric", "Did you mean ap? Allowed: ap, auc"),
        ("gates: [{gate: metrix}]", "line 1, gates[0].gate", "Did you mean metric? Allowed: changes, custom, latency"),
        ("run_in: pots", "line 1, run_in", "Did you mean pod? Allowed: pod, worker"),
    ],
)
def test_a_word_that_is_none_of_those_allowed_is_answered_with_them(
    tmp_path: Path, text: str, place: str, allowed: str
) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith(f"usecases/refunds/pipeline.yaml, {place}: invalid ")
    assert allowed in said


def test_a_policy_names_its_use_case_and_the_allowed_actions(tmp_path: Path) -> None:
    said = refusal(tmp_path, "rules: [{name: a, when: amount > 1, action: declin}]", "policy.yaml")
    assert said.startswith("usecases/refunds/policy.yaml, line 1, rules[0].action: ")
    assert "Did you mean decline? Allowed: " in said


@pytest.mark.parametrize("text", ["review: [", "a: 1\na: 2"])
def test_what_is_no_yaml_is_named_with_its_use_case_too(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).startswith("usecases/refunds/pipeline.yaml, line ")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"schedule: \xff", "is not UTF-8"),
        (b"schedule: \x00x", "is not YAML (unacceptable character"),
        (b"a: &a [*a]", "holds itself"),
        (b"? [a, b]\n: 1", "has a key that is no word"),
        (b"schedule: !!python/object:os.system x", "is not YAML (could not determine a constructor"),
    ],
)
def test_what_no_file_may_hold_is_named_as_well(tmp_path: Path, raw: bytes, found: str) -> None:
    path = tmp_path / "usecases" / "refunds" / "pipeline.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    with pytest.raises(DeclarationError) as refused:
        read_typed(path, PipelineFile)
    assert str(refused.value).startswith("usecases/refunds/pipeline.yaml")
    assert found in str(refused.value)


class Loud(msgspec.Struct, tag_field="kind", tag="loud"):
    by: Literal["horn", "bell"]


class Bright(msgspec.Struct, tag_field="kind", tag="bright"):
    by: Literal["lamp"]


class Alarms(msgspec.Struct):
    known: dict[str, Loud | Bright]
    alarms: list[Loud | Bright]


def test_of_several_kinds_the_words_of_the_one_that_is_named_are_allowed() -> None:
    data = {"alarms": [{"kind": "bright", "by": "lmp"}], "known": {"x": {"kind": "loud", "by": "bel"}}}
    assert allowed_words(Alarms, "$.alarms[0].by", data) == {"lamp"}
    assert allowed_words(Alarms, "$.alarms[0].kind", data) == {"loud", "bright"}
    assert allowed_words(Alarms, "$.known[...].by", data) == {"lamp", "horn", "bell"}, "the place does not say which"
    assert allowed_words(Alarms, "$.alarms", data) == set()
