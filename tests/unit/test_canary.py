"""The share of entities that a canary decides for: stable, growing, and fair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from riskflow.canary import in_share, salt
from riskflow.columns import Text, partition_of

IDS = st.lists(st.binary(max_size=20), min_size=1, max_size=60)
SHARE = st.floats(0.0, 1.0)
MANY = Text.of(f"c{i}".encode() for i in range(40_000))


@given(IDS, SHARE, SHARE)
def test_a_larger_share_only_adds(ids: list[bytes], a: float, b: float) -> None:
    seed = salt("card_fraud", "hash")
    small, large = (in_share(Text.of(ids), share, seed) for share in sorted((a, b)))
    assert not (small & ~large).any()


@given(IDS, SHARE, st.randoms())
def test_an_id_is_in_whatever_stands_beside_it(ids: list[bytes], share: float, random: object) -> None:
    seed = salt("card_fraud", "hash")
    together = in_share(Text.of(ids), share, seed)
    alone = [in_share(Text.of([one]), share, seed)[0] for one in ids]
    assert together.tolist() == alone


@given(IDS)
def test_the_whole_is_everybody_and_nothing_is_nobody(ids: list[bytes]) -> None:
    seed = salt("card_fraud", "hash")
    assert in_share(Text.of(ids), 1.0, seed).all()
    assert not in_share(Text.of(ids), 0.0, seed).any()


def test_shares_are_right_in_every_partition() -> None:
    """The partition comes from a hash of the id, too: the two must not go together."""
    for share in (0.01, 0.1, 0.5):
        chosen = in_share(MANY, share, salt("card_fraud", "hash"))
        assert abs(chosen.mean() - share) < 4 * np.sqrt(share / len(MANY))
        for p in range(8):
            mine = chosen[partition_of(MANY, 8) == p]
            assert abs(mine.mean() - share) < 5 * np.sqrt(share / len(mine))


def test_another_canary_and_another_use_case_get_others() -> None:
    one, two, three = (
        in_share(MANY, 0.1, salt(*of)) for of in (("card_fraud", "a"), ("card_fraud", "b"), ("loans", "a"))
    )
    for other in (two, three):
        assert abs((one & other).mean() - 0.01) < 0.003


def test_who_is_in_never_changes() -> None:
    """Written down: another version of the code may not move a customer in the middle of a ramp."""
    chosen = in_share(MANY, 0.0005, salt("card_fraud", "0" * 64))
    values = MANY.values()
    assert [values[i] for i in np.flatnonzero(chosen)][:5] == [b"c6431", b"c10033", b"c11445", b"c12892", b"c14415"]
