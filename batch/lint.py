"""Everything that is wrong with a use case's files, each with file, line and the fix. Airflow is not needed."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batch.pipeline import FILE, Pipeline, PipelineFile
from batch.steps import user_function
from riskflow.errors import DeclarationError, NotReady, RiskflowError
from riskflow.plan import Plan
from riskflow.policy import Policy, PolicyFile
from riskflow.settings import PROJECT
from riskflow.typed_yaml import read_sections
from riskflow.usecase import load_usecase

POLICY = "policy.yaml"
PYTHON = ("events.py", "features.py", "models.py")


@dataclass(frozen=True)
class Problem:
    """One thing to mend. `line` is 1 where only the file is known."""

    file: str
    line: int
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.found}. {self.fix}."


def lint_usecase(name: str, folder: Path, dags: Path = PROJECT / "dags") -> list[Problem]:
    """All problems of one use case, by file."""
    plan, problems = _plan(name, folder)
    problems += _pipeline(folder / name / FILE, plan)
    problems += _policy(folder / name / POLICY, plan)
    if not (dags / f"{name}.py").is_file():
        fix = f"Copy dags/card_fraud.py there and put {name!r} in, or see `riskflow new`"
        problems.append(Problem(f"dags/{name}.py", 1, "there is no such file, so Airflow has no DAG of it", fix))
    return problems


def _plan(name: str, folder: Path) -> tuple[Plan | None, list[Problem]]:
    """The plan, or why there is none: the first thing that is wrong, since all else stands on it."""
    try:
        return Plan.of(load_usecase(name, folder)), []
    except NotReady:
        raise
    except DeclarationError as error:
        file, line = _raised(folder / name, error) or _declared(folder / name, error.who)
        return None, [Problem(file, line, f"{error.who} {error.found}", error.fix)]
    except SyntaxError as error:
        return None, [
            Problem(Path(error.filename or "?").name, error.lineno or 1, f"is not Python: {error.msg}", "Mend it")
        ]
    except Exception as error:  # a use case's module may raise anything
        file, line = _raised(folder / name, error) or (PYTHON[0], 1)
        return None, [Problem(file, line, f"{type(error).__name__}: {error}", "Mend the line")]


def _declared(folder: Path, who: str) -> tuple[str, int]:
    """Where the thing that a plan's error is about is declared, by the names that it mentions."""
    for word in re.findall(r"[A-Za-z_]\w*", who):
        for file in PYTHON:
            path = folder / file
            line = _line_of(path, word) if path.is_file() else None
            if line is not None:
                return file, line
    return PYTHON[1], 1


def _line_of(path: Path, name: str) -> int | None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.lineno
    return None


def _raised(folder: Path, error: Exception) -> tuple[str, int] | None:
    """The last line of the use case's own files that an error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).parent == folder:
            return Path(frame.filename).name, frame.lineno or 1
    return None


def _pipeline(path: Path, plan: Plan | None) -> list[Problem]:
    if not path.is_file():
        return [Problem(path.name, 1, "there is no such file", "Write one; an empty one is enough")]
    file, lines, errors = read_sections(path, PipelineFile)
    pipeline = Pipeline(file, path, lines)
    errors += pipeline.problems()
    if plan is not None:
        errors += _tried(lambda: pipeline.check(plan))
        for i, task in enumerate(file.tasks):
            for error in _tried(lambda call=task.call: user_function(call)):
                errors.append(
                    DeclarationError(pipeline.at(f"$.tasks[{i}].call"), f"{error.who} {error.found}", error.fix)
                )
    return [_of(path, error) for error in errors]


def _policy(path: Path, plan: Plan | None) -> list[Problem]:
    if not path.is_file():
        return []  # scores alone
    file, lines, errors = read_sections(path, PolicyFile)
    if not errors:
        errors += _tried(lambda: Policy.load(path))
    if plan is not None:
        for part in _parts(file):
            errors += _tried(lambda part=part: Policy(part, path, lines).check(plan))
    return [_of(path, error) for error in errors]


def _parts(file: PolicyFile) -> Iterator[PolicyFile]:
    """The file again and again with one rule or one reason only, in its place."""
    never = msgspec.structs.replace(file, rules=[], reasons={})
    for pattern, text in file.reasons.items():
        yield msgspec.structs.replace(never, reasons={pattern: text})
    for i, _ in enumerate(file.rules):
        before = [msgspec.structs.replace(rule, when="score >= 0") for rule in file.rules[:i]]
        yield msgspec.structs.replace(never, rules=[*before, file.rules[i]])


def _tried(check: object) -> list[DeclarationError]:
    try:
        check()  # type: ignore[operator]
    except DeclarationError as error:
        return [error]
    except RiskflowError as error:
        return [DeclarationError("", str(error), "Mend it")]
    return []


def _of(path: Path, error: DeclarationError) -> Problem:
    """`pipeline.yaml, line 7, gates.x: found` as file, line and what was found there."""
    match = re.match(r"(?P<file>[^,:]+), line (?P<line>\d+)(, (?P<place>.*))?", error.who)
    place = (match["place"] or "") if match else error.who
    line = int(match["line"]) if match else 1
    return Problem(path.name, line, f"{place} {error.found}".strip(), error.fix)
