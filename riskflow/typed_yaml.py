"""YAML files with a declared shape: an error names the file, the line, what was found and the fix."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from riskflow.allowed import allowed_words
from riskflow.errors import DeclarationError

T = TypeVar("T")
Lines = dict[str, int]  # "$.rules[0].when" -> line, from 1
DEEPEST = 60  # of values within values: deeper is an alias that holds itself


def read_typed(path: Path, shape: type[T]) -> tuple[T, Lines]:
    """The file as `shape` (a msgspec Struct), and the line of each of its values."""
    lines: Lines = {}
    data = _data(path, lines)
    try:
        return msgspec.convert(data, shape), lines
    except msgspec.ValidationError as error:
        raise _refusal(path, lines, str(error), shape, data) from None


def read_sections(path: Path, shape: type[T]) -> tuple[T, Lines, list[DeclarationError]]:
    """The same with every line that is wrong, one for each top-level word; those keep their default then."""
    lines: Lines = {}
    try:
        data = _data(path, lines)
    except DeclarationError as error:
        return shape(), lines, [error]
    if not isinstance(data, dict):
        return (
            shape(),
            lines,
            [DeclarationError(where(path, lines, "$"), "is no mapping", "Write lines as name: value")],
        )
    good, errors = {}, []
    for key, value in data.items():
        try:
            msgspec.convert({key: value}, shape)
            good[key] = value
        except msgspec.ValidationError as error:
            errors.append(_refusal(path, lines, str(error), shape, data))
    return msgspec.convert(good, shape), lines, errors


def where(path: Path, lines: Lines, place: str) -> str:
    """`usecases/fraud/policy.yaml, line 7, rules[0].when`: the nearest line that is known for the place."""
    known = place
    while known not in lines and known != "$":
        known = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", known)
    name = place.removeprefix("$").removeprefix(".")
    return f"{shown(path)}, line {lines.get(known, 1)}" + (f", {name}" if name else "")


def shown(path: Path) -> str:
    """With its use case: `usecases/fraud/policy.yaml`, wherever that lies."""
    return str(Path(*path.parts[-3:]))


def _data(path: Path, lines: Lines) -> Any:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise DeclarationError(shown(path), f"cannot be read ({error.strerror})", f"Write {path}") from None
    except UnicodeDecodeError as error:
        raise DeclarationError(shown(path), f"is not UTF-8 ({error.reason})", "Save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(path, error) from None
    except yaml.YAMLError as error:  # a character that no YAML may hold
        raise DeclarationError(shown(path), f"is not YAML ({str(error).splitlines()[0]})", "Take it out") from None
    return _plain(path, root, "$", lines) if root is not None else {}


def _no_yaml(path: Path, error: yaml.MarkedYAMLError) -> DeclarationError:
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    return DeclarationError(f"{shown(path)}, line {line}", f"is not YAML ({error.problem})", "Mend the line")


def _plain(path: Path, node: Any, place: str, lines: Lines) -> Any:
    if place.count(".") + place.count("[") > DEEPEST:
        raise DeclarationError(where(path, lines, "$"), "holds itself, or is nested without end", "Leave the alias out")
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, child, f"{place}[{i}]", lines) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return yaml.SafeLoader("").construct_object(node)
        except yaml.MarkedYAMLError as error:  # a tag that is none of YAML's own
            raise _no_yaml(path, error) from None
    out: dict[Any, Any] = {}
    for key, child in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise DeclarationError(where(path, lines, place), "has a key that is no word", "Name it by one word")
        if key.value in out:
            raise DeclarationError(where(path, lines, place), f"has {key.value!r} twice", "Keep one of them")
        lines[f"{place}.{key.value}"] = key.start_mark.line + 1
        out[key.value] = _plain(path, child, f"{place}.{key.value}", lines)
    return out


def _refusal(path: Path, lines: Lines, message: str, shape: type, data: Any) -> DeclarationError:
    found, _, place = message.partition(" - at `")
    place = place.rstrip("`") or "$"
    unknown = re.search(r"unknown field `(.*)`", found)
    if unknown:
        place = f"{place}.{unknown[1]}"
    fix = _known(unknown[1], shape) if unknown else _fix(found, place, shape, data)
    return DeclarationError(where(path, lines, place), found[0].lower() + found[1:], fix)


def _fix(found: str, place: str, shape: type, data: Any) -> str:
    value = re.match(r"Invalid (?:enum )?value '(.*)'$", found)
    allowed = allowed_words(shape, place, data) if value else set()
    if not value or not allowed:
        return "Give it what is expected"
    near = difflib.get_close_matches(value[1], sorted(allowed), 1, 0.5)
    return (f"Did you mean {near[0]}? " if near else "") + f"Allowed: {', '.join(sorted(allowed))}"


def _known(word: str, shape: type) -> str:
    names = sorted(_names(shape, set()))
    near = difflib.get_close_matches(word, names, 2, 0.5)
    return f"Did you mean {' or '.join(near)}" if near else f"Known words: {', '.join(names)}"


def _names(shape: Any, seen: set[Any]) -> set[str]:
    """Every field name of a Struct and of the Structs in it."""
    if shape in seen:
        return set()
    seen.add(shape)
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
        return set().union(*(_names(a, seen) for a in getattr(shape, "__args__", ())))
    fields = msgspec.structs.fields(shape)
    return {f.encode_name for f in fields}.union(*(_names(f.type, seen) for f in fields))
