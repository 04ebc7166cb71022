"""Hashes of columns, compiled: 64 bits, the same on every machine. They tell apart; they keep no secrets."""

from __future__ import annotations

import numpy as np
from numba import njit

_SEED, _PRIME = 0xCBF29CE484222325, 0x100000001B3


@njit(forceinline=True)
def mix(h):  # type: ignore[no-untyped-def]
    """murmur3's finish: every bit of a uint64 stirs every other."""
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@njit(cache=True)
def hash_text(data, offsets, seed, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        h = np.uint64(_SEED) ^ np.uint64(seed)
        for j in range(offsets[i], offsets[i + 1]):
            h = (h ^ np.uint64(data[j])) * np.uint64(_PRIME)
        out[i] = np.int64(mix(h))


@njit(cache=True)
def combine(into, more):  # type: ignore[no-untyped-def]
    for i in range(into.shape[0]):
        h = np.uint64(into[i]) * np.uint64(_PRIME) ^ np.uint64(more[i])
        into[i] = np.int64(mix(h))


@njit(cache=True)
def add_named(into, bits, name, missing):  # type: ignore[no-untyped-def]
    """Adds what a column says under its name; nothing where it is missing. The order of columns makes no difference."""
    for i in range(into.shape[0]):
        if bits[i] != missing:
            into[i] += np.int64(mix(np.uint64(bits[i]) * np.uint64(_PRIME) ^ np.uint64(name)))


@njit(cache=True)
def add_named_numbers(into, numbers, bits, name):  # type: ignore[no-untyped-def]
    """The same for numbers, where every NaN is missing."""
    for i in range(into.shape[0]):
        if numbers[i] == numbers[i]:
            into[i] += np.int64(mix(np.uint64(bits[i]) * np.uint64(_PRIME) ^ np.uint64(name)))


@njit(cache=True)
def number_texts(data, offsets, hashes, table, numbers, firsts):  # type: ignore[no-untyped-def]
    """Numbers distinct texts by an open hash table of their numbers; equal hashes are compared byte by byte."""
    n = 0
    last = table.shape[0] - 1
    for i in range(numbers.shape[0]):
        if offsets[i + 1] - offsets[i] == 1 and data[offsets[i]] == 0xFF:
            numbers[i] = -1
            continue
        at = hashes[i] & last
        while table[at] >= 0 and not _same(data, offsets, hashes, i, firsts[table[at]]):
            at = (at + 1) & last
        if table[at] < 0:
            table[at] = n
            firsts[n] = i
            n += 1
        numbers[i] = table[at]
    return n


@njit(forceinline=True)
def _same(data, offsets, hashes, i, j):  # type: ignore[no-untyped-def]
    length = offsets[i + 1] - offsets[i]
    if hashes[i] != hashes[j] or offsets[j + 1] - offsets[j] != length:
        return False
    for k in range(length):  # noqa: SIM110 - compiled
        if data[offsets[i] + k] != data[offsets[j] + k]:
            return False
    return True
