"""Which words a value of a declared shape may be: what an error suggests instead of the one that it found."""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect
from msgspec.inspect import DictType, ListType, LiteralType, Metadata, StructType, Type, UnionType


def allowed_words(shape: type, place: str, data: Any) -> set[str]:
    """Words for the value at `$.gates[0].metric`; data: the whole file, which tells what kind of gate that is."""
    types = _alternatives(inspect.type_info(shape))
    for name, number in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", place):
        structs = [t for t in types if isinstance(t, StructType)]
        if name and any(t.tag_field == name for t in structs):
            return {str(t.tag) for t in structs}
        types = [inner for t in types if _is_meant(t, data) for inner in _inside(t, name)]
        data = _value(data, name, number)
    return {str(value) for t in types if isinstance(t, LiteralType) for value in t.values}


def _alternatives(one: Type) -> list[Type]:
    if isinstance(one, Metadata):
        return _alternatives(one.type)
    return [inner for t in one.types for inner in _alternatives(t)] if isinstance(one, UnionType) else [one]


def _is_meant(one: Type, data: Any) -> bool:
    """Of several kinds that a tag tells apart, the one that the file names."""
    tagged = isinstance(one, StructType) and one.tag_field is not None and isinstance(data, dict)
    return not tagged or data.get(one.tag_field) == one.tag  # type: ignore[attr-defined]


def _inside(one: Type, name: str) -> list[Type]:
    if isinstance(one, StructType):
        return [t for f in one.fields if f.encode_name == name for t in _alternatives(f.type)]
    if isinstance(one, ListType):
        return _alternatives(one.item_type)
    return _alternatives(one.value_type) if isinstance(one, DictType) else []


def _value(data: Any, name: str, number: str) -> Any:
    """What stands there; None where the place does not say, as in `fields[...]`."""
    if isinstance(data, dict) and name:
        return data.get(name)
    return data[int(number)] if isinstance(data, list) and number.isdigit() else None
