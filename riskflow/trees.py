"""Small tree ensembles without branches: every node is decided for a block of rows at once, by selecting.

A tree is a list of steps, its lowest nodes first: `rows = yes where feature <= threshold else no`, where yes and no are
leaves or rows that a step before has made. The processor does sixteen rows in one instruction and guesses no branch,
which is some ten times faster than walking from root to leaf as long as trees have few leaves. Leaves are added in the
order of the trees, in float32, and the logistic function is the same `expf` that onnxruntime calls, so all bits are its
bits.

`batch.flatten` makes the steps of an ONNX file when a bundle is made; here they are read and run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow.errors import BundleRefused

F4 = NDArray[np.float32]

BLOCK = 512  # rows that are decided together: all they need stays in the first cache
LANES = 16  # float32 in the widest register
DEEPEST = 64  # rows of intermediate results
LEAVES, YES_MADE, NO_MADE, BOTH_MADE = range(4)  # which sides of a step are rows made before

STEPS = {  # a step for each inner node
    "kind": np.int32, "feature": np.int32,  # feature: + the number of features where a missing value goes to yes
    "threshold": np.float32, "yes": np.float32, "no": np.float32,  # values of leaves
    "slot": np.int32, "other": np.int32,  # rows of yes, and of the result; rows of no
    "last": np.int32,  # 1: the result is the tree's
}  # fmt: skip
REST = {
    "filled": np.float32,  # for each feature what stands for a missing value; NaN: it stays missing
    "base": np.float32,  # one number, added last
    "logistic": np.int32,  # one number; 1: the sum goes through the logistic function
}


def packed(arrays: Mapping[str, Any]) -> bytes:
    """The arrays of STEPS and REST as one file."""
    file = io.BytesIO()
    typed: dict[str, Any] = {name: np.asarray(arrays[name], kind) for name, kind in (STEPS | REST).items()}
    np.savez(file, **typed)
    return file.getvalue()


class Trees:
    """An ensemble at work. Raises BundleRefused for a file that is none, or not for so many inputs."""

    def __init__(self, content: bytes, inputs: int, who: str) -> None:
        arrays = _unpacked(content, who)
        _check(arrays, inputs, who)
        # Unsigned numbers index faster: nobody has to ask whether they count from the end.
        self._steps: Any = tuple(a.astype(np.uint64) if a.dtype == np.int32 else a for a in (arrays[n] for n in STEPS))
        self._slots = 1 + int(max(arrays["slot"].max(), arrays["other"].max()))
        self._filled, self._base = arrays["filled"], arrays["base"][0]
        self._logistic = bool(arrays["logistic"][0])

    def __call__(self, matrix: F4) -> F4:
        """The probability of class 1 of each row; matrix is rows by features."""
        sums = np.empty(len(matrix), np.float32)
        _add_up(matrix, self._filled, self._base, self._slots, sums, *self._steps)
        if self._logistic:
            _squash(sums)
        return sums


def _unpacked(content: bytes, who: str) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in STEPS | REST}
    except Exception as error:  # zip files fail in many ways
        raise BundleRefused(f"{who}: its trees cannot be read: {error}") from None


def _check(arrays: Mapping[str, Any], inputs: int, who: str) -> None:
    """Nothing is checked while the steps run: they must not point at what is not there."""
    steps = len(arrays["kind"])
    sizes = {**dict.fromkeys(STEPS, (steps,)), "filled": (inputs,), "base": (1,), "logistic": (1,)}
    for name, kind in (STEPS | REST).items():
        if arrays[name].dtype != kind or arrays[name].shape != sizes[name]:
            raise BundleRefused(f"{who}: its trees have {name!r} as {arrays[name].dtype} {arrays[name].shape}")
    ranges = {"kind": 4, "feature": 2 * inputs, "slot": DEEPEST, "other": DEEPEST, "last": 2}
    for name, end in ranges.items():
        if not steps or arrays[name].min() < 0 or arrays[name].max() >= end:
            raise BundleRefused(f"{who}: its trees have a {name!r} that is not within 0 and {end - 1}")


@njit(cache=True, nogil=True, error_model="numpy")
def _add_up(matrix, filled, base, slots, sums, kind, feature, threshold, yes, no, slot, other, last):  # type: ignore[no-untyped-def]
    n_features = len(filled)
    block = min(BLOCK, (len(matrix) + LANES - 1) // LANES * LANES)
    x = np.zeros((2 * n_features, block), np.float32)
    made = np.zeros((slots, block), np.float32)
    total = np.zeros(block, np.float32)
    for begin in range(0, len(matrix), BLOCK):
        rows = min(BLOCK, len(matrix) - begin)
        width = (rows + LANES - 1) // LANES * LANES
        _transpose(matrix, begin, rows, filled, x)
        total[:] = np.float32(0)
        for step in range(len(kind)):
            f, s, o = feature[step], slot[step], other[step]
            h, a, b = threshold[step], yes[step], no[step]
            # Both sides are read before one is chosen: only then is the choice an instruction and no branch.
            if kind[step] == LEAVES:
                for i in range(width):
                    made[s, i] = a if x[f, i] <= h else b
            elif kind[step] == YES_MADE:
                for i in range(width):
                    here = made[s, i]
                    made[s, i] = here if x[f, i] <= h else b
            elif kind[step] == NO_MADE:
                for i in range(width):
                    there = made[o, i]
                    made[s, i] = a if x[f, i] <= h else there
            else:
                for i in range(width):
                    here, there = made[s, i], made[o, i]
                    made[s, i] = here if x[f, i] <= h else there
            if last[step]:
                for i in range(width):
                    total[i] += made[s, i]
        for i in range(rows):
            sums[begin + i] = total[i] + base


@njit(cache=True, nogil=True, error_model="numpy")
def _transpose(matrix, begin, rows, filled, out):  # type: ignore[no-untyped-def]
    """Each feature in a row of its own, twice: a missing value as NaN, which goes to no, and below every threshold."""
    n_features = len(filled)
    for j in range(n_features):
        for i in range(rows):
            x = matrix[begin + i, j]
            x = x if x == x else filled[j]
            out[j, i] = x
            out[n_features + j, i] = x if x == x else np.float32(-np.inf)


@njit(cache=True, nogil=True, error_model="numpy")
def _squash(sums):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for i in range(len(sums)):
        near = one / (one + np.float32(math.exp(-abs(sums[i]))))
        sums[i] = one - near if sums[i] < 0 else near
