"""Functions as text: their fingerprint (with the helpers they call) and the source that the kernel compiles."""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import math
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from riskflow.errors import DeclarationError

_PLAIN = (int, float, bool, str, tuple, type(None))


def fingerprint(*parts: object) -> str:
    """A short hash of declarations, sources and other fingerprints."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def normal_source(function: Callable[..., Any]) -> str:
    """The function without comments, decorators and docstring: what it computes, not how it is written down."""
    tree = _definition(function)
    tree.decorator_list = []
    if ast.get_docstring(tree) is not None:
        tree.body = tree.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def with_helpers(function: Callable[..., Any]) -> str:
    """normal_source of the function and of everything of its own package that it refers to, each once."""
    return "\n".join(_collect(function, {}).values())


def is_flag(function: Callable[..., Any]) -> bool:
    """Whether a function says yes or no: annotated `-> bool`, or every return is a comparison."""
    if function.__annotations__.get("return") in (bool, "bool"):
        return True
    returns = [n.value for n in ast.walk(_definition(function)) if isinstance(n, ast.Return)]
    return bool(returns) and all(isinstance(r, ast.Compare | ast.BoolOp) or _is_not(r) for r in returns)


def compiled_source(name: str, function: Callable[..., Any], prefix: str) -> str:
    """Text that defines the function under `prefix + its name` for numba, constants and helpers included."""
    tree = _definition(function)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Assert | ast.Try):
            raise DeclarationError(
                f"mark {name!r}", f"has a `{type(node).__name__.lower()}`", "A mark returns NaN for what it cannot say"
            )
    texts: dict[str, str] = {}
    source = _compiled(name, function, texts)
    return "\n\n".join([*texts.values(), f"# {prefix}", source])


def _compiled(name: str, function: Callable[..., Any], texts: dict[str, str]) -> str:
    for ref, value in _references(function).items():
        if ref in texts or value in (np, math):
            if value is math:
                texts[ref] = f"import math as {ref}"
            continue
        if isinstance(value, types.FunctionType):
            texts[ref] = ""
            texts[ref] = _compiled(name, value, texts)
        elif isinstance(value, int | float | bool | tuple):
            texts[ref] = f"{ref} = {value!r}".replace("nan", "np.nan").replace("inf", "np.inf")
        else:
            raise DeclarationError(
                f"mark {name!r}", f"refers to {ref!r}, a {type(value).__name__}", "Use numbers, numpy and functions"
            )
    return '@njit(cache=True, error_model="numpy")\n' + normal_source(function)


def _collect(function: Callable[..., Any], found: dict[str, str]) -> dict[str, str]:
    key = f"{function.__module__}.{function.__qualname__}"
    if key in found:
        return found
    found[key] = normal_source(function)
    for name, value in _references(function).items():
        if isinstance(value, types.FunctionType) and _same_package(value, function):
            _collect(value, found)
        elif isinstance(value, _PLAIN):
            found[f"{key}:{name}"] = f"{name} = {value!r}"
    return found


def _references(function: Callable[..., Any]) -> dict[str, Any]:
    code: Any = function
    names = {n.id for n in ast.walk(_definition(function)) if isinstance(n, ast.Name)}
    names -= set(code.__code__.co_varnames)
    return {n: code.__globals__[n] for n in sorted(names) if n in code.__globals__ and not hasattr(builtins, n)}


def _same_package(helper: Callable[..., Any], function: Callable[..., Any]) -> bool:
    return helper.__module__.rpartition(".")[0] == function.__module__.rpartition(".")[0]


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise DeclarationError(f"{function!r}", "is not written with def", "Write it as a plain function")
    tree.decorator_list = []
    return tree


def _is_not(node: ast.expr | None) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
