"""Which entities a canary decides for: a stable share of the first entity's ids.

An id is in by its hash alone, salted by the use case and the canary's bundle. So a share that grows only ever adds
entities, an entity has one decider for as long as the ramp lasts, and another canary is tried on others.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import Text


def salt(usecase: str, bundle_hash: str) -> int:
    """Of one canary's ramp: 63 bits."""
    digest = hashlib.sha256(f"canary\n{usecase}\n{bundle_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def in_share(ids: Text, share: float, seed: int) -> NDArray[np.bool_]:
    """Whether each id is among the share (0 to 1) of all ids that this salt picks."""
    part = (ids.hashes(seed).view(np.uint64) >> np.uint64(11)) * 2.0**-53  # 53 bits: each a float64 in [0, 1)
    found: NDArray[np.bool_] = part < share
    return found
