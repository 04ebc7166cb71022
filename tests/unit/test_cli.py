"""The `riskflow` command as a whole."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.main import GROUPS, app
from riskflow.errors import BundleRefused, DeclarationError, NotReady
from riskflow.settings import PROJECT, settings


@pytest.fixture
def riskflow() -> Any:
    """The whole command, without its handling of errors."""
    whole = typer.Typer(rich_markup_mode=None)
    for group in GROUPS:
        importlib.import_module(f"cli.{group}").register(whole)
    return lambda *words: CliRunner().invoke(whole, [*words], env={"COLUMNS": "200"})


def test_the_version_is_that_of_the_package() -> None:
    stated = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"riskflow {stated}"


@pytest.mark.parametrize(
    "command", [["drift"], ["review", "sample"], ["score", "card_fraud"], ["backtest", "card_fraud"]]
)
def test_a_span_that_ends_before_it_begins_is_a_bad_option(riskflow: Any, command: list[str]) -> None:
    for to in ("2026-03-01", "2026-02-28T23:00:00Z"):
        refused = riskflow(*command, "--from", "2026-03-01", "--to", to)
        assert refused.exit_code == 2
        assert f"--from 2026-03-01 is not before --to {to}: no event can lie between them" in refused.stderr


@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--from", ["drift", "--from", "yesterday"]),
        ("--to", ["backtest", "card_fraud", "--to", "yesterday"]),
        ("--since", ["parity", "--no-archive", "--since", "yesterday"]),
        ("--start", ["simulate", "--out", "nowhere", "--start", "yesterday"]),
    ],
)
def test_what_is_no_time_is_named_with_its_option(riskflow: Any, option: str, command: list[str]) -> None:
    refused = riskflow(*command)
    assert refused.exit_code == 2
    assert f"{option}: 'yesterday' is not a time, give 2026-11-01 or 2026-11-01T10:15:00Z" in refused.stderr


# ---- bad words, before anything is asked -----------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, with no service behind its addresses."""
    monkeypatch.setenv("RISKFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("RISKFLOW_AIRFLOW_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize("command", [["retrain", "nope"], ["retrain", "nope", "--local"], ["runs", "list", "nope"]])
def test_a_use_case_that_is_not_there_is_answered_with_those_that_are(
    riskflow: Any, elsewhere: Path, command: list[str]
) -> None:
    found = riskflow(*command).exception
    assert isinstance(found, NotReady)
    assert str(found).startswith("there is no use case 'nope'. There are: card_fraud")


@pytest.mark.parametrize("alias", ["king", "canary", "champion:old", "challenger:Two"])
def test_a_retraining_under_a_name_that_airflow_refuses_is_a_bad_option(
    riskflow: Any, elsewhere: Path, alias: str
) -> None:
    refused = riskflow("retrain", "card_fraud", "--alias", alias)
    assert refused.exit_code == 2
    assert f"--alias '{alias}': a new bundle becomes champion, challenger, challenger:NAME, shadow" in refused.stderr


@pytest.mark.parametrize("alias", ["champion", "challenger", "challenger:two", "shadow:old"])
def test_a_retraining_may_have_each_name_that_airflow_takes(riskflow: Any, elsewhere: Path, alias: str) -> None:
    asked = riskflow("retrain", "card_fraud", "--alias", alias).exception
    assert isinstance(asked, NotReady)
    assert "does not answer" in str(asked)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (["--alias", "canary"], "a canary decides for a share of the customers: --share 0.01 is one in 100"),
        (["--alias", "canary", "--share", "3"], "Input should be less than or equal to 1"),
        (["--alias", "shadow", "--share", "0.1"], "--share is for --alias canary: shadow takes none"),
    ],
)
def test_a_share_that_is_missing_or_too_much_is_a_bad_option(
    riskflow: Any, elsewhere: Path, share: list[str], said: str
) -> None:
    refused = riskflow("models", "promote", "1", *share)
    assert refused.exit_code == 2
    assert said in refused.stderr


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nofile", "nofile: there is no such file"),
        ("nofile.jsonl", "nofile.jsonl: there is no such file"),
        ("a.txt", "Give a file that ends in .jsonl (lines of JSON), .parquet or .csv"),
    ],
)
def test_a_file_that_cannot_be_produced_is_named_with_what_can(
    riskflow: Any, tmp_path: Path, file: str, said: str
) -> None:
    (tmp_path / "a.txt").write_text("{}")
    found = riskflow("produce", str(tmp_path / file), "--topic", "card_fraud.events").exception
    assert isinstance(found, DeclarationError)
    assert said in str(found)


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("card_fraud.events", "Make it: riskflow topics card_fraud"),
        ("try.card_fraud.evnts", "card_fraud takes try.card_fraud.events, try.card_fraud.labels"),
        ("card_frod.events", "There are: card_fraud"),
        ("events", "A topic is named USECASE.FEED"),
    ],
)
def test_a_topic_that_is_not_there_is_answered_with_what_helps(topic: str, said: str) -> None:
    from batch.produce import _no_topic

    assert said in str(_no_topic(topic))


def test_a_report_of_what_is_no_bundle_names_the_file(riskflow: Any) -> None:
    found = riskflow("report", str(PROJECT / "README.md")).exception
    assert isinstance(found, BundleRefused)
    assert str(found).startswith(f"{PROJECT / 'README.md'}: corrupted")


def test_a_second_server_is_refused_in_a_sentence(riskflow: Any, elsewhere: Path) -> None:
    from serving.services import store_path
    from serving.store import Store

    first = Store(store_path(settings(), "card_fraud"))
    second = riskflow("serve")
    first.close()
    assert isinstance(second.exception, NotReady)
    assert "is in use by another `riskflow serve`" in str(second.exception)


@pytest.mark.parametrize("command", ["models promote", "retrain", "simulate"])
def test_each_example_of_a_help_has_a_line_of_its_own(riskflow: Any, command: str) -> None:
    examples = [
        line
        for line in riskflow(*command.split(), "--help").stdout.splitlines()
        if line.strip().startswith("riskflow ")
    ]
    assert len(examples) > 1
    assert all(line.count("riskflow ") == 1 for line in examples)


def test_a_use_case_is_not_called_by_a_word_of_python(tmp_path: Path) -> None:
    from cli.new import write_usecase

    with pytest.raises(DeclarationError, match="'class': is a word of Python"):
        write_usecase("class", tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
