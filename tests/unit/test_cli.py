"""The `riskflow` command as a whole."""

from __future__ import annotations

import importlib
import tomllib
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.main import GROUPS, app
from riskflow.settings import PROJECT


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
