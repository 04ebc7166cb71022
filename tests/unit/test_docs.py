"""What the docs show is so: commands with their options, pipeline.yaml and policy.yaml, files and headings."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from batch.pipeline import Pipeline, PipelineFile
from cli.main import GROUPS
from riskflow.errors import DeclarationError
from riskflow.policy import Policy, PolicyFile
from riskflow.settings import PROJECT

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
INLINE = re.compile(r"`(riskflow [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
EXAMPLE = re.compile(r"^```yaml\n([\s\S]*?)^```|(?:^(?:    .*)?\n)+", re.MULTILINE)
ENDS = ("|", "&&", ";", "...", "#")  # of a command; what follows is another one, or words


@pytest.fixture(scope="module")
def commands() -> Any:
    app = typer.Typer()
    for group in GROUPS:
        importlib.import_module(f"cli.{group}").register(app)
    return typer.main.get_command(app)


def named(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and words of each `riskflow ...` in backticks, or at the beginning of a line of an example."""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        examples = INLINE.findall(line)
        if line.strip().startswith(("riskflow ", ".venv/bin/riskflow ")):
            examples.append(re.split(r"\s{2,}", line.strip())[0])  # behind a gap it is told what the command does
        for example in examples:
            for one in re.split(r"&&|;", example):
                words = one.split()
                if words and words[0].endswith("riskflow"):
                    end = next((i for i, word in enumerate(words) if word in ENDS), len(words))
                    yield number, words[1:end]


def trouble(command: Any, words: list[str]) -> str:
    """What of these words the command line does not know."""
    while hasattr(command, "commands") and words:
        word, *words = words
        if word.startswith("-") or not word.islower():  # an option of all, or a place for a word
            return ""
        if word not in command.commands:
            return f"there is no command {word!r}"
        command = command.commands[word]
    if command.name == "airflow":  # its words are Airflow's own
        return ""
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    asked = {word.partition("=")[0].strip("[],.") for word in words if word.startswith("--")}
    return f"no {', '.join(sorted(asked - known))}" if asked - known else ""


def test_every_command_of_the_docs_is_there_with_its_options(commands: Any) -> None:
    examples = [(page, line, words) for page in PAGES for line, words in named(page)]
    wrong = [
        f"{page.relative_to(PROJECT)}, line {line}: riskflow {' '.join(words)}: {found}"
        for page, line, words in examples
        if (found := trouble(commands, words))
    ]
    assert wrong == []
    assert len(examples) > 150


def test_what_is_not_there_is_noticed(commands: Any) -> None:
    assert trouble(commands, ["models", "shadows"]) == "there is no command 'shadows'"
    assert trouble(commands, ["backtest", "card_fraud", "--segment", "channel"]) == "no --segment"
    assert trouble(commands, ["backtest", "card_fraud", "--segments", "channel"]) == ""


def test_every_wish_of_make_that_the_docs_name_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (page.name, name) for page in PAGES for name in re.findall(r"(?:`|^ *)make ([a-z-]+)", page.read_text(), re.M)
    }
    assert [one for one in sorted(named) if one[1] not in targets] == []
    assert len(named) > 15


def sections(page: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each example, indented or fenced, that begins like a section of pipeline.yaml or policy.yaml."""
    for found in EXAMPLE.finditer(page.read_text()):
        text = found.group(1) or textwrap.dedent(found.group()).strip("\n")
        first = re.match(r"(\w+):", text)
        if first and first.group(1) in {*PipelineFile.__struct_fields__, *PolicyFile.__struct_fields__}:
            yield page.read_text()[: found.start()].count("\n") + 1, text


def mistake(text: str, path: Path) -> str:
    """Why the example is neither a pipeline.yaml nor a policy.yaml."""
    path.write_text(text)
    said = []
    for load in (Pipeline.load, Policy.load):
        try:
            load(path)
        except DeclarationError as error:
            said.append(str(error))
        else:
            return ""
    return "; ".join(said)


def test_sections_of_pipeline_and_policy_in_the_docs_can_be_written_so(tmp_path: Path) -> None:
    examples = [(page, line, text) for page in PAGES for line, text in sections(page)]
    wrong = [
        f"{page.relative_to(PROJECT)}, line {line}: {found}"
        for page, line, text in examples
        if (found := mistake(text, tmp_path / "example.yaml"))
    ]
    assert wrong == []
    assert len(examples) > 8


@pytest.mark.parametrize(("page", "name"), [("watching", "watch"), ("lifecycle", "race"), ("lifecycle", "ramp")])
def test_defaults_are_written_down_whole_and_as_they_are(page: str, name: str, tmp_path: Path) -> None:
    (text,) = (text for _, text in sections(PROJECT / "docs" / f"{page}.md") if text.startswith(f"{name}:"))
    (tmp_path / "pipeline.yaml").write_text(text)
    usual = getattr(PipelineFile(), name)
    assert getattr(Pipeline.load(tmp_path / "pipeline.yaml").file, name) == usual
    assert [field for field in usual.__struct_fields__ if f"{field}:" not in text] == []


def anchors(page: Path) -> set[str]:
    """Of the headings, as a page is shown."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:", "mailto:")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
