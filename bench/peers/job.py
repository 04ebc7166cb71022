"""The job in plain Python, one event after another: what a user of a general stream processor writes by hand.

For the customer and for the terminal of a payment: how many payments and how much money in the last hour, day, 7 and
30 days, before this one. Windows move by tiles, as those of Riskflow do: one of w seconds holds the tiles from
floor((t - w) / tile) to floor(t / tile). Two windows share tiles of an hour. A state is plain JSON.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime as ort

HOUR, DAY = 3_600_000, 86_400_000
TILES = {"5m": (300_000, [HOUR]), "1h": (HOUR, [DAY, 7 * DAY]), "1d": (DAY, [30 * DAY])}  # tile, windows, in ms

State = dict[str, list[list[float]]]  # tile size -> [number, count, sum] of each tile in use, oldest first


def arguments(*flags: str) -> argparse.Namespace:
    """What every job is told, and flags of its own."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "source", "out", "model", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args()


def observe(state: State, at_ms: int, amount: float) -> list[float]:
    """Eight numbers before the event (count and sum of each window); the event is added afterwards."""
    row: list[float] = []
    for name, (tile_ms, windows) in TILES.items():
        tiles = state.setdefault(name, [])
        now, oldest = at_ms // tile_ms, (at_ms - windows[-1]) // tile_ms
        while tiles and tiles[0][0] < oldest:
            tiles.pop(0)
        for window in windows:
            first = (at_ms - window) // tile_ms
            count, total = 0.0, 0.0
            for number, tile_count, tile_sum in tiles:
                if first <= number <= now:
                    count += tile_count
                    total += tile_sum
            row += (count, total)
        _add(tiles, now, amount)
    return row


def _add(tiles: list[list[float]], now: int, amount: float) -> None:
    """A late event goes into its own tile."""
    at = len(tiles)
    while at and tiles[at - 1][0] > now:
        at -= 1
    if at and tiles[at - 1][0] == now:
        tiles[at - 1][1] += 1
        tiles[at - 1][2] += amount
    else:
        tiles.insert(at, [now, 1, amount])


class Model:
    """The ONNX model, on one thread, one event at a time."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[-1].name

    def score(self, row: list[float]) -> float:
        return float(self.scores(np.array([row], np.float32))[0])

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run([self._output], {self._input: rows})[0][:, 1]
