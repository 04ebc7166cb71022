"""The trees of an ONNX file as the steps that riskflow.trees runs; what is no ensemble of small trees stays ONNX.

Understood is one TreeEnsembleClassifier of two classes whose nodes all compare by `<=`, alone or behind an Imputer that
replaces NaN: what gradient boosting, and a forest behind an imputer, are exported as.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from riskflow.scoring import session_of
from riskflow.trees import BOTH_MADE, DEEPEST, F4, LEAVES, NO_MADE, STEPS, YES_MADE, Trees, packed

MOST_NODES = 64  # inner nodes of a tree in the mean; beyond it a block of few rows is faster in onnxruntime
PROBES = 512
LOGISTIC = {b"NONE": 0, b"LOGISTIC": 1}

Step = tuple[int, int, float, float, float, int, int, int]  # in the order of STEPS


def flatten(onnx_bytes: bytes) -> bytes | None:
    """The steps, when there are any and their results have the very bits of onnxruntime's; else None."""
    found = _ensemble(onnx_bytes)
    if found is None:
        return None
    ensemble, filled, inputs = found
    steps = [step for root in ensemble.roots for step in ensemble.steps(root, inputs)]
    if len(steps) > MOST_NODES * len(ensemble.roots) or any(step[6] >= DEEPEST for step in steps):
        return None
    columns = dict(zip(STEPS, zip(*steps, strict=True), strict=True))
    content = packed({**columns, "filled": filled, "base": [ensemble.base], "logistic": [ensemble.logistic]})
    return content if _same_bits(content, onnx_bytes, ensemble, inputs) else None


@dataclass(frozen=True)
class _Ensemble:
    """All nodes of all trees, one after another; a leaf is its own successor."""

    roots: list[int]
    yes: list[int]
    no: list[int]
    feature: list[int]
    threshold: list[float]
    missing_is_yes: list[bool]
    weight: list[float]  # of leaves
    base: float
    logistic: int

    @classmethod
    def of(cls, node: Any) -> _Ensemble | None:
        """None for what these steps cannot say."""
        about = _attributes(node)
        modes = about["nodes_modes"]
        if set(modes) - {b"BRANCH_LEQ", b"LEAF"} or about["post_transform"] not in LOGISTIC:
            return None
        if len(set(about["class_ids"])) > 1 or len(about["classlabels_int64s"]) != 2:
            return None
        trees, ids = about["nodes_treeids"], about["nodes_nodeids"]
        place = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}

        def successors(name: str) -> list[int]:
            every = enumerate(zip(trees, about[name], modes, strict=True))
            return [i if mode == b"LEAF" else place[tree, to] for i, (tree, to, mode) in every]

        weight = [0.0] * len(ids)
        for tree, node_id, value in zip(
            about["class_treeids"], about["class_nodeids"], about["class_weights"], strict=True
        ):
            weight[place[tree, node_id]] = value
        return cls(
            [place[tree, 0] for tree in dict.fromkeys(trees)], successors("nodes_truenodeids"),
            successors("nodes_falsenodeids"), about["nodes_featureids"], about["nodes_values"],
            [bool(m) for m in about.get("nodes_missing_value_tracks_true") or [0] * len(ids)], weight,
            *about.get("base_values", [0.0]), LOGISTIC[about["post_transform"]],
        )  # fmt: skip

    def is_leaf(self, node: int) -> bool:
        return self.yes[node] == node

    def steps(self, root: int, inputs: int) -> Iterator[Step]:
        """One tree; the last step's result is the tree's."""
        if self.is_leaf(root):
            yield (LEAVES, 0, 0.0, self.weight[root], self.weight[root], 0, 0, 1)
            return
        *lower, (*top, _) = self._made(root, 0, inputs)
        yield from lower
        yield (*top, 1)  # type: ignore[misc]

    def _made(self, node: int, slot: int, inputs: int) -> Iterator[Step]:
        """This node's rows in a slot; slots above it are used on the way."""
        yes, no = self.yes[node], self.no[node]
        if not self.is_leaf(yes):
            yield from self._made(yes, slot, inputs)
        other = slot if self.is_leaf(yes) else slot + 1
        if not self.is_leaf(no):
            yield from self._made(no, other, inputs)
        kind = {
            (True, True): LEAVES, (False, True): YES_MADE, (True, False): NO_MADE, (False, False): BOTH_MADE,
        }[self.is_leaf(yes), self.is_leaf(no)]  # fmt: skip
        feature = self.feature[node] + (inputs if self.missing_is_yes[node] else 0)
        yield (kind, feature, self.threshold[node], self.weight[yes], self.weight[no], slot, other, 0)


def _ensemble(onnx_bytes: bytes) -> tuple[_Ensemble, list[float], int] | None:
    """The ensemble, what fills a missing value of each input (NaN: nothing), and how many inputs there are."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_from_string(onnx_bytes).graph
    except DecodeError:
        return None  # onnxruntime says what is wrong with it
    inputs = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    filled = [float("nan")] * inputs
    *before, last = [node for node in graph.node if node.op_type != "Identity"]  # GradientBoosting ends in one
    if last.op_type != "TreeEnsembleClassifier" or len(before) > 1:
        return None
    if before:
        about = _attributes(before[0])
        replaced = about.get("imputed_value_floats")
        if before[0].op_type != "Imputer" or not replaced or not np.isnan(about.get("replaced_value_float", 0.0)):
            return None
        filled = [*replaced] if len(replaced) == inputs else [*replaced] * inputs
    ensemble = _Ensemble.of(last)
    return None if ensemble is None else (ensemble, filled, inputs)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _same_bits(content: bytes, onnx_bytes: bytes, ensemble: _Ensemble, inputs: int) -> bool:
    """Whether both say the same of rows whose values lie on the thresholds, just beside them, or are missing."""
    rows = _probes(ensemble, inputs)
    session = session_of(onnx_bytes, "exported model")
    try:
        said = session.run([session.get_outputs()[-1].name], {session.get_inputs()[0].name: rows})[0][:, 1]
    except Exception:  # onnxruntime has no common type; it says what is wrong when the model is loaded
        return False
    mine = Trees(content, inputs, "exported model")(rows)
    return bool((said.view(np.int32) == mine.view(np.int32)).all())


def _probes(ensemble: _Ensemble, inputs: int) -> F4:
    rng, rows = np.random.default_rng(0), np.empty((PROBES, inputs), np.float32)
    features, thresholds = np.array(ensemble.feature), np.array(ensemble.threshold, np.float32)
    for j in range(inputs):
        at = np.append(thresholds[features == j], np.float32(0))
        above, below = np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))
        rows[:, j] = rng.choice(np.concatenate([at, above, below, np.full(len(at), np.nan, np.float32)]), PROBES)
    return rows
