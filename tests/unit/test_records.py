"""Packed records: nothing is lost, equal states are equal bytes, and a usual customer needs less than 1 KB."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.kernel import record_bytes
from riskflow.plan import Plan
from riskflow.records import HI, IDS, LO, pack_from, touched_days, unpack_into
from riskflow.settings import settings as riskflow_settings
from riskflow.usecase import load_usecase

modest = settings(max_examples=60, deadline=None)
money = st.integers(0, 10**7).map(lambda cents: cents / 100)
sums_of_money = st.lists(money, min_size=2, max_size=5).map(math.fsum) | st.lists(money, max_size=5).map(sum)
odd = st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 5e-324, 1e15, 1e15 + 0.125, 2.0**53, 1e300])
cells = st.floats(width=64) | st.integers(-9, 10**13).map(float) | money | sums_of_money | odd
rings = st.lists(st.lists(cells, max_size=12), min_size=3, max_size=3)


@modest
@given(st.lists(rings, min_size=1, max_size=4), st.lists(st.integers(-(2**40), 2**40), min_size=12, max_size=12))
def test_every_bit_comes_back(slots: list[list[list[float]]], tiles: list[int]) -> None:
    widths, tiles = np.array([2, 3, 5], np.int64), sorted(set(tiles))
    rows = np.array([[len(ring) // (w - 1) for ring, w in zip(s, widths, strict=True)] for s in slots], np.int64)
    rows = np.minimum(rows, len(tiles))
    place, data, ids, touched = unpack_into([b""] * len(slots), widths, rows, False)
    touched[:] = [abs(tiles[s % len(tiles)]) for s in range(len(slots))]
    place[:, HI] = rows.reshape(-1)
    for x, (base, _, _, n) in enumerate(place.tolist()):
        slot, ring = divmod(x, 3)
        width, values = int(widths[ring]), slots[slot][ring]
        for j in range(n):
            data.view(np.int64)[base + j * width] = tiles[j]
            data[base + j * width + 1 : base + (j + 1) * width] = values[j * (width - 1) : (j + 1) * (width - 1)]
    packed = pack_from(place, data, ids, touched, widths, False)
    again, back, _, when = unpack_into(packed, widths, rows * 0, False)
    assert (again[:, HI] - again[:, LO]).tolist() == rows.reshape(-1).tolist()
    assert back[:-1].tobytes() == data[:-1].tobytes()
    assert when.tolist() == touched.tolist() == touched_days(packed).tolist()
    assert pack_from(again, back, ids, when, widths, False) == packed


def test_ids_come_back_in_their_places() -> None:
    widths = np.array([], np.int64)
    for seen in (0, 1, IDS - 1, IDS, IDS + 5, 2 * IDS, 1000):
        place, data, (ids, checks, n_ids), touched = unpack_into([b""], widths, np.zeros((1, 0), np.int64), True)
        filled = min(seen, IDS)
        ids[0, :filled], checks[0, :filled], n_ids[0] = np.arange(filled) - 7, np.arange(filled) * 2000, seen
        packed = pack_from(place, data, (ids, checks, n_ids), touched, widths, True)
        _, _, found, _ = unpack_into(packed, widths, np.zeros((1, 0), np.int64), True)
        assert found[0].tolist() == ids.tolist()
        assert found[1].tolist() == checks.tolist()
        assert found[2][0] % IDS == seen % IDS
        assert min(found[2][0], IDS) == filled


def test_a_customer_with_sixty_payments_in_a_month_needs_a_kilobyte_at_most() -> None:
    assert record_bytes(Plan.of(load_usecase("card_fraud", riskflow_settings().usecases))) <= 1024


def test_no_record_was_never_touched() -> None:
    assert touched_days([]).tolist() == []
    assert touched_days([b"\3\0", b"\3\x7f\xff", b"\3\x80\1\5"]).tolist() == [0, 127, 128]
