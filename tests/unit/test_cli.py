"""The `riskflow` command as a whole."""

from __future__ import annotations

import tomllib

from typer.testing import CliRunner

from cli.main import app
from riskflow.settings import PROJECT


def test_the_version_is_that_of_the_package() -> None:
    stated = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"riskflow {stated}"
