"""Columns and the bytes of a block: what goes in comes out, whatever ids people send."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow.columns import Columns, Text, combined_hash, concat, n_rows, partition_of, row_sum, take
from riskflow.wire import decode, decode_all, encode, encode_parts

HOSTILE = ["@pos", "e:", "", "\0", "\N{PILE OF POO}" * 128, "7", "7 ", "\u00e9", "e\u0301", "ÿ", "a\0b", "x" * 128]
HASHES = [
    -5910645398400610854,
    -1166397803181037274,
    1998855519756462295,
]  # of "customer-1", "" and what is missing: partitions and records stand on them
modest = settings(max_examples=40, deadline=None)
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=9) | st.none(), max_size=20)


@modest
@given(texts)
def test_text_keeps_every_string(values: list[str | None]) -> None:
    text = Text.of_strings(values)
    assert text.strings() == values
    assert text.missing().tolist() == [v is None for v in values]


@given(st.lists(st.one_of(st.text(), st.sampled_from(['"', "\\", "\n", "\x7f", "\u2028", "a b", "ä€"]))))
def test_each_text_is_json_of_itself(values: list[str]) -> None:
    assert [json.loads(found) for found in Text.of_strings(values).json()] == values
    assert [json.loads(found) for found in Text.of_strings(["plain", *values]).json()] == ["plain", *values]


@modest
@given(texts)
def test_equal_texts_have_one_number(values: list[str | None]) -> None:
    text = Text.of_strings(values)
    firsts, numbers = text.numbered()
    order = list(dict.fromkeys(v for v in values if v is not None))
    assert text.take(firsts).strings() == order
    assert numbers.tolist() == [-1 if v is None else order.index(v) for v in values]


def test_texts_with_one_hash_are_told_apart() -> None:
    text = Text.of_strings(["a", "b", "a", "c", "b"])
    vars(text)["_plain_hashes"] = np.zeros(5, np.int64)
    assert text.numbered()[1].tolist() == [0, 1, 0, 2, 1]


def test_hashes_and_partitions_are_the_same_for_ever() -> None:
    text = Text.of_strings(["customer-1", "", None])
    assert text.hashes().tolist() == HASHES
    assert len(set(Text.of_strings(HOSTILE).hashes().tolist())) == len(HOSTILE)
    assert partition_of(text, 8).tolist() == [h % 2**64 % 8 for h in HASHES]


def columns_of(values: list[str | None]) -> Columns:
    n = len(values)
    return {
        "id": Text.of_strings(values),
        "amount": np.linspace(-1.0, 1.0, n),
        "channel": np.arange(n, dtype=np.int32) - 1,
        "_kind": np.zeros(n, np.int8),
        "at_ms": np.arange(n, dtype=np.int64) + 2**53,
    }


def same(one: Columns, other: Columns) -> bool:
    return list(one) == list(other) and all(
        a.values() == b.values() if isinstance(a, Text) and isinstance(b, Text) else a.tobytes() == b.tobytes()  # type: ignore[union-attr]
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@modest
@given(texts)
def test_a_block_comes_back_as_it_was(values: list[str | None]) -> None:
    columns, meta = columns_of(values), {"after": 7, "source": "events.0"}
    found, said = decode(encode(columns, meta))
    assert same(found, columns)
    assert said == meta
    assert encode(found, said) == encode(columns, meta)


@modest
@given(st.lists(texts, min_size=1, max_size=4), st.integers(1, 5))
def test_many_blocks_cut_from_one_table_are_read_into_one(tables: list[list[str | None]], step: int) -> None:
    columns = columns_of([v for table in tables for v in table])
    n = n_rows(columns)
    bounds = [(a, min(a + step, n)) for a in range(0, n, step)]
    blocks = encode_parts(columns, bounds, [{"at": a} for a, _ in bounds])
    for (a, b), block in zip(bounds, blocks, strict=True):
        assert block == encode(take(columns, np.arange(a, b)), {"at": a})
    if blocks:
        [(found, headers)] = decode_all(blocks)
        assert same(found, columns)
        assert [(h.meta["at"], h.rows) for h in headers] == [(a, b - a) for a, b in bounds]


def test_blocks_with_other_columns_are_read_apart() -> None:
    one, other = columns_of(["a"]), columns_of(["b"]) | {"more": np.zeros(1)}
    found = [list(columns) for columns, _ in decode_all([encode(one, {}), encode(other, {}), encode(one, {})])]
    assert found == [list(one), list(other), list(one)]


def test_what_is_no_block_is_refused() -> None:
    block = encode(columns_of(["a", "b"]), {})
    for broken in (b"", b"{}", block + b"x", b"RF1 " + block[4:]):
        with pytest.raises(ValueError, match="block"):
            decode(broken)
    with pytest.raises(ValueError):
        decode(block[:-1])


@modest
@given(texts, st.integers(0, 20))
def test_cut_and_joined_is_the_same(values: list[str | None], cut: int) -> None:
    columns, n = columns_of(values), len(values)
    parts = [take(columns, np.arange(min(cut, n))), take(columns, np.arange(min(cut, n), n))]
    assert same(concat(parts), columns)


def test_a_combined_hash_sees_every_bit_of_every_column() -> None:
    columns = columns_of(["a", "b"])
    parts = [columns["id"], columns["amount"], columns["at_ms"]]
    before = combined_hash(parts)
    for other in (
        [Text.of_strings(["A", "b"]), *parts[1:]],
        [parts[0], np.array([-1.0000000000000002, 1.0]), parts[2]],
        [parts[0], parts[2], parts[1]],
    ):
        after = combined_hash(other)
        assert after[0] != before[0]
    assert combined_hash([Text.of_strings(["ab"]), Text.of_strings(["c"])]) != combined_hash(
        [Text.of_strings(["a"]), Text.of_strings(["bc"])]
    )


def test_a_row_sum_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.random(1000) * 10.0 ** rng.integers(-9, 9) for _ in range(9)]
    whole = row_sum(parts)
    for size in (1, 2, 7, 64):
        cut = [row_sum([p[a : a + size] for p in parts]) for a in range(0, 1000, size)]
        assert np.concatenate(cut).tobytes() == whole.tobytes()
