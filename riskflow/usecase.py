"""Reads a use case's folder: events.py, features.py, models.py (optional), policy.yaml, pipeline.yaml."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from riskflow.declare import Entity, Feed, Mark, Model, Transfer, Windows
from riskflow.errors import DeclarationError, NotReady
from riskflow.names import checked

_PACKAGE = "usecases"
_WORDS = Entity | Feed | Windows | Mark | Model | Transfer
T = TypeVar("T")


@dataclass(frozen=True)
class UseCase:
    """What one use case states, by name, in the order of its files. The first feed is the one that is scored."""

    name: str
    folder: Path
    feeds: tuple[Feed, ...]
    entities: tuple[Entity, ...]
    windows: dict[str, Windows]
    marks: dict[str, Mark]
    calculations: dict[str, Callable[..., Any]]
    models: dict[str, Model]
    transfers: dict[str, Transfer] = field(default_factory=dict)


def load_usecase(name: str, folder: Path) -> UseCase:
    """The use case `name` in the folder of use cases; raises NotReady when there is none."""
    checked(name, "use case")
    if not (folder / name / "events.py").is_file():
        there = sorted(p.parent.name for p in folder.glob("*/events.py"))
        raise NotReady(f"use case {name!r}: no {folder / name}/events.py. There are: {', '.join(there) or 'none'}.")
    _point_package_at(folder)
    modules = [importlib.import_module(f"{_PACKAGE}.{name}.{part}") for part in ("events", "features")]
    if (folder / name / "models.py").is_file():
        modules.append(importlib.import_module(f"{_PACKAGE}.{name}.models"))
    return from_modules(name, folder / name, modules)


def usecase_names(folder: Path) -> list[str]:
    """All use cases in a folder, in order of name."""
    return sorted(p.parent.name for p in folder.glob("*/events.py"))


def from_modules(name: str, folder: Path, modules: list[types.ModuleType]) -> UseCase:
    """A use case out of modules (or anything with the same attributes): what tests and scaffolds use."""
    found = _declared(modules)
    calculations: dict[str, Callable[..., Any]] = {}
    for key, value in found.items():
        if inspect.isfunction(value):
            _add_expanded(key, value, calculations, found)
    return UseCase(
        name,
        folder,
        tuple(_of(Feed, found).values()),
        tuple(dict.fromkeys(_of(Entity, found).values())),
        _of(Windows, found),
        _of(Mark, found),
        calculations,
        _of(Model, found),
        _of(Transfer, found),
    )


def _declared(modules: list[types.ModuleType]) -> dict[str, Any]:
    """Public declarations by name. What a module has from another one is the same thing, not a second one."""
    found: dict[str, Any] = {}
    for module in modules:
        makes_models = module.__name__.endswith(".models")  # its functions make estimators, they are no features
        for key, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__ and not makes_models
            if key.startswith("_") or not (own or isinstance(value, _WORDS)):
                continue
            if key in found and found[key] != value:
                raise DeclarationError(
                    f"{module.__name__}: {key!r}", "has the name of something else", "Give one of them another name"
                )
            found[key] = value
    return found


def _of(kind: type[T], found: dict[str, Any]) -> dict[str, T]:
    return {key: value for key, value in found.items() if isinstance(value, kind)}


def _add_expanded(
    key: str, function: Callable[..., Any], calculations: dict[str, Callable[..., Any]], found: dict[str, Any]
) -> None:
    for name, copy in _expanded(key, function).items():
        if name in calculations or (name != key and name in found):
            raise DeclarationError(
                f"function {key!r}", f"is expanded to {name!r}, which is there already", "Give one another name"
            )
        calculations[name] = copy


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """A function's inputs by name; those of an expanded one carry their window."""
    names = tuple(inspect.signature(function).parameters)
    window = getattr(function, "__riskflow_window__", None)
    return tuple(_with_window(n, window) for n in names) if window else names


def _expanded(key: str, function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    windows = getattr(function, "__riskflow_over__", None)
    if windows is None:
        return {key: function}
    if not key.endswith("_w"):
        raise DeclarationError(f"function {key!r}", "is expanded by @over but does not end in _w", f"Name it {key}_w")
    return {_with_window(key, w): _copy(function, w) for w in windows}


def _copy(function: Callable[..., Any], window: str) -> Callable[..., Any]:
    source: Any = function
    copy = types.FunctionType(
        source.__code__, source.__globals__, source.__name__, source.__defaults__, source.__closure__
    )
    copy.__dict__.update(source.__dict__, __riskflow_window__=window)
    copy.__module__ = source.__module__
    return copy


def _with_window(name: str, window: str) -> str:
    return f"{name[:-1]}{window}" if name.endswith("_w") else name


def _point_package_at(folder: Path) -> None:
    """Makes `usecases` mean this folder, so that teams may keep their use cases in a repository of their own."""
    package = sys.modules.get(_PACKAGE)
    if package is not None and [Path(p).resolve() for p in package.__path__] == [folder.resolve()]:
        return
    for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(_PACKAGE + ".")]:
        del sys.modules[name]
    package = types.ModuleType(_PACKAGE, "Use cases, from the folder that the settings name.")
    package.__path__ = [str(folder.resolve())]
    sys.modules[_PACKAGE] = package
    importlib.invalidate_caches()
