"""Functions as text: their fingerprint (with the helpers they call) and the source that the kernel compiles."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import re
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from riskflow.errors import DeclarationError

_NUMBERS = (int, float, bool, np.integer, np.floating, np.bool_)


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
    """normal_source of the function and of everything of its own repository that it refers to, each once."""
    return "\n".join(_collect(function, {}).values())


def is_flag(function: Callable[..., Any]) -> bool:
    """Whether a function says yes or no: annotated `-> bool`, or every return is a comparison."""
    if function.__annotations__.get("return") in (bool, "bool"):
        return True
    returns = [n.value for n in ast.walk(_definition(function)) if isinstance(n, ast.Return)]
    return bool(returns) and all(isinstance(r, ast.Compare | ast.BoolOp) or _is_not(r) for r in returns)


def compiled_source(name: str, function: Callable[..., Any]) -> tuple[str, str]:
    """A mark for numba: the name under which the text defines it, and the text, constants and helpers included.

    What it refers to stands under names made of module and name, so marks of several modules do not meet.
    """
    texts: dict[str, str] = {}
    own = _compiled(name, function, texts)
    if any("[" in text for text in texts.values()):
        own = _guarded(own, function, texts)
    return own, "\n\n".join(texts.values())


def _guarded(own: str, function: Callable[..., Any], texts: dict[str, str]) -> str:
    """The same with NaN where it looks behind the end of a tuple: all else that could raise gives NaN by itself."""
    guarded, given = f"guarded_{own}", ", ".join(inspect.signature(function).parameters)
    texts[guarded] = (
        f"@njit(error_model='numpy')\ndef {guarded}({given}):\n    try:\n        found = 1.0 * {own}({given})\n"
        "    except Exception:\n        found = np.nan\n    return found"
    )
    return guarded


def _compiled(mark: str, function: Callable[..., Any], texts: dict[str, str]) -> str:
    tree = _definition(function)
    _refuse_statements(mark, tree)
    tree.name = own = _own_name(function, function.__name__)
    if own in texts:
        return own
    texts[own] = ""  # it may call itself
    names = {}
    for ref, value in _references(function).items():
        names[ref] = _compiled_reference(mark, function, ref, value, texts)
    texts[own] = "@njit(error_model='numpy')\n" + ast.unparse(_Renamed(names).visit(_bare(tree)))
    texts[own] = texts.pop(own)  # after what it calls
    return own


def _compiled_reference(mark: str, function: Callable[..., Any], ref: str, value: Any, texts: dict[str, str]) -> str:
    if value is np or value is math:
        return "np" if value is np else "math"
    if isinstance(value, types.FunctionType):
        return _compiled(mark, value, texts)
    if isinstance(value, _NUMBERS) or (isinstance(value, tuple) and all(isinstance(v, _NUMBERS) for v in value)):
        own = _own_name(function, ref)
        texts[own] = f"{own} = {_literal(value)}"
        return own
    raise DeclarationError(
        f"mark {mark!r}", f"refers to {ref!r}, a {type(value).__name__}", "Use numbers, numpy, math and functions"
    )


def _refuse_statements(mark: str, tree: ast.FunctionDef) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Assert | ast.Try | ast.With | ast.Import | ast.ImportFrom):
            raise DeclarationError(
                f"mark {mark!r}", f"has a `{type(node).__name__.lower()}`", "A mark returns NaN for what it cannot say"
            )


def _own_name(function: Callable[..., Any], name: str) -> str:
    return "own_" + re.sub(r"\W", "_", f"{function.__module__}_{name}")


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(v)}, " for v in value) + ")"
    plain = value.item() if isinstance(value, np.generic) else value
    return repr(plain) if not isinstance(plain, float) or math.isfinite(plain) else f"float({str(plain)!r})"


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id), node.ctx)


def _bare(tree: ast.FunctionDef) -> ast.FunctionDef:
    """Without docstring and annotations: the generated file has none of their names."""
    if ast.get_docstring(tree) is not None:
        tree.body = tree.body[1:] or [ast.Pass()]
    tree.returns = None
    for arg in ast.walk(tree):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    return tree


# ---- what a function refers to ---------------------------------------------------------------------------------------


def _collect(function: Callable[..., Any], found: dict[str, str]) -> dict[str, str]:
    key = f"{function.__module__}.{function.__qualname__}"
    if key in found:
        return found
    found[key] = normal_source(function)
    for name, value in _references(function).items():
        _collect_value(f"{key}:{name}", value, function, found)
    return found


def _collect_value(key: str, value: Any, function: Callable[..., Any], found: dict[str, str]) -> None:
    if isinstance(value, types.ModuleType):
        return  # what is taken from one of our own is a reference of its own
    if isinstance(value, types.FunctionType) and _is_own(value, function):
        _collect(value, found)
    elif isinstance(value, type) and _is_own(value, function):
        found[key] = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(value))))
    else:
        found[key] = f"{key.rpartition(':')[2]} = {_described(value, function)}"


def _described(value: Any, function: Callable[..., Any]) -> str:
    """A constant as text that says all of it, and the same in every process."""
    if isinstance(value, np.ndarray):
        return f"array({value.dtype.str}, {value.shape}, {value.tolist()!r})"
    if isinstance(value, set | frozenset):
        return f"set({sorted(_described(v, function) for v in value)})"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({[_described(v, function) for v in value]})"
    if isinstance(value, dict):
        return f"dict({[(_described(k, function), _described(v, function)) for k, v in value.items()]})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text:
        raise DeclarationError(
            f"function {function.__name__!r}",
            f"refers to {text}, which says nothing of what is in it",
            "Use numbers, texts, lists, dicts, arrays and functions",
        )
    return text


def _references(function: Callable[..., Any]) -> dict[str, Any]:
    """Names that a function takes from outside, with their values; `module.name` for modules of its own repository."""
    code: Any = inspect.unwrap(function)
    tree = _definition(function)
    known = {**code.__globals__, **_enclosed(code)}
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - set(code.__code__.co_varnames)
    found = {n: known[n] for n in sorted(names) if n in known}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = found.get(node.value.id)
            if isinstance(module, types.ModuleType) and _is_own(module, function) and hasattr(module, node.attr):
                found[f"{node.value.id}.{node.attr}"] = getattr(module, node.attr)
    return found


def _enclosed(code: Any) -> dict[str, Any]:
    cells = code.__closure__ or ()
    return {n: c.cell_contents for n, c in zip(code.__code__.co_freevars, cells, strict=True)}


def _is_own(thing: Any, function: Callable[..., Any]) -> bool:
    """Whether something stands in the same top package as the function, such as `usecases`."""
    module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return bool(module.partition(".")[0] == function.__module__.partition(".")[0])


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise DeclarationError(f"function {function.__name__!r}", "is not written with def", "Write it as a plain one")
    tree.decorator_list = []
    return tree


def _is_not(node: ast.expr | None) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
