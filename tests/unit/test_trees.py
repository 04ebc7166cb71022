"""Flattened trees against onnxruntime, bit by bit, and against walking each tree from its root."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from batch import flatten as flattening
from batch.export import OPSET, to_onnx
from batch.flatten import flatten
from riskflow.bundle import Bundle
from riskflow.errors import BundleRefused
from riskflow.scoring import Layer, Scorer, session_of
from riskflow.trees import BLOCK, REST, STEPS, Trees, packed
from tests.unit.bundle_cases import bundle, columns, plan

FEATURES = 3
NUMBERS = st.floats(-8, 8, width=32)
VALUES = st.one_of(NUMBERS, st.sampled_from([float("nan"), 0.0, -0.0, 1e18, -1e18, 1e-40]))


@dataclass(frozen=True)
class Leaf:
    weight: float


@dataclass(frozen=True)
class Node:
    feature: int
    threshold: float
    missing_is_yes: bool
    yes: Any
    no: Any


THRESHOLDS = st.one_of(NUMBERS, st.sampled_from([float("inf"), 0.0, 1e18]))
TREES = st.recursive(
    st.builds(Leaf, NUMBERS),
    lambda below: st.builds(Node, st.integers(0, FEATURES - 1), THRESHOLDS, st.booleans(), below, below),
    max_leaves=12,
)


def as_onnx(trees: list[Any], base: float, logistic: bool, mode: str = "BRANCH_LEQ") -> bytes:
    """The trees as the ONNX file that skl2onnx would make of them."""
    about: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
                              "missing_value_tracks_true")
    }  # fmt: skip
    leaves: list[tuple[int, int, float]] = []

    def add(tree: int, node: Any, count: int) -> int:
        """Adds a node and what is below it; returns how many nodes the tree has then."""
        place, inner = len(about["treeids"]), isinstance(node, Node)
        row = (tree, count, node.feature, node.threshold, mode, 0, 0, int(node.missing_is_yes)) if inner else (
            tree, count, 0, 0.0, "LEAF", 0, 0, 0)  # fmt: skip
        for name, value in zip(about, row, strict=True):
            about[name].append(value)
        after = count + 1
        if inner:
            about["truenodeids"][place], after = after, add(tree, node.yes, after)
            about["falsenodeids"][place], after = after, add(tree, node.no, after)
        else:
            leaves.append((tree, count, node.weight))
        return after

    for number, tree in enumerate(trees):
        add(number, tree, 0)
    node = helper.make_node(
        "TreeEnsembleClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml",
        **{f"nodes_{name}": values for name, values in about.items()}, nodes_hitrates=[1.0] * len(about["treeids"]),
        class_treeids=[t for t, _, _ in leaves], class_nodeids=[n for _, n, _ in leaves],
        class_weights=[w for _, _, w in leaves], class_ids=[0] * len(leaves), classlabels_int64s=[0, 1],
        base_values=[base], post_transform="LOGISTIC" if logistic else "NONE",
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "riskflow", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
         helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def walked(trees: list[Any], base: float, row: Any) -> np.float32:
    """The sum of the leaves that a row comes to, one tree after another."""
    total = np.float32(0)
    for node in trees:
        while isinstance(node, Node):
            x = row[node.feature]
            node = node.yes if x <= np.float32(node.threshold) or (np.isnan(x) and node.missing_is_yes) else node.no
        total += np.float32(node.weight)
    return np.float32(total + np.float32(base))


def by_onnxruntime(content: bytes, matrix: Any) -> Any:
    session = session_of(content, "a model")
    return session.run([session.get_outputs()[-1].name], {session.get_inputs()[0].name: matrix})[0][:, 1]


def bits(values: Any) -> list[int]:
    found: list[int] = np.ascontiguousarray(values, np.float32).view(np.int32).tolist()
    return found


@settings(max_examples=150)
@given(
    trees=st.lists(TREES, min_size=1, max_size=6),
    base=NUMBERS,
    matrix=arrays.arrays(np.float32, st.tuples(st.integers(2, 40), st.just(FEATURES)), elements=VALUES),
)
def test_sums_are_those_of_walking_each_tree_and_of_onnxruntime(trees: list[Any], base: float, matrix: Any) -> None:
    content = as_onnx(trees, base, logistic=False)
    flat = flatten(content)
    assert flat is not None
    found = Trees(flat, FEATURES, "a model")(matrix)
    assert bits(found + np.float32(0)) == bits([walked(trees, base, row) + np.float32(0) for row in matrix])
    assert bits(found + np.float32(0)) == bits(by_onnxruntime(content, matrix) + np.float32(0))


@settings(max_examples=80)
@given(weights=st.lists(st.floats(-90, 90, width=32), min_size=20, max_size=20))
def test_the_logistic_function_is_onnxruntimes(weights: list[float]) -> None:
    tree: Any = Leaf(weights[0])
    for i, weight in enumerate(weights[1:], 1):
        tree = Node(0, float(i), False, tree if i == 1 else Leaf(weight), Leaf(weight) if i == 1 else tree)
    content = as_onnx([tree], 0.0, logistic=True)
    flat = flatten(content)
    assert flat is not None
    matrix = np.tile(np.arange(-1, 24, 0.5, dtype=np.float32)[:, None], (1, FEATURES))
    assert bits(Trees(flat, FEATURES, "a model")(matrix)) == bits(by_onnxruntime(content, matrix))


def table(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Values with many missing ones, and what they make likely."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    likely = rng.random(rows) < 1 / (1 + np.exp(-2 * matrix[:, 0] * matrix[:, 1]))
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    return matrix, likely.astype(int)


MODELS = {
    "boosting": HistGradientBoostingClassifier(max_iter=60, random_state=0),
    "older boosting": make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=30, random_state=0)),
    "forest": make_pipeline(SimpleImputer(), RandomForestClassifier(20, max_depth=5, random_state=0)),
    "constant": make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), RandomForestClassifier(9, max_depth=3)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_keeps_its_bits(name: str) -> None:
    matrix, fraud = table(3 * BLOCK + 17)
    content = to_onnx(MODELS[name].fit(matrix, fraud), FEATURES)
    flat = flatten(content)
    assert flat is not None
    wanted = by_onnxruntime(content, matrix)
    for rows in (2, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, len(matrix)):
        assert bits(Trees(flat, FEATURES, name)(matrix[:rows])) == bits(wanted[:rows])


def test_what_is_no_ensemble_of_small_trees_stays_onnx() -> None:
    matrix, fraud = table(2_000)
    linear = make_pipeline(SimpleImputer(), LogisticRegression())
    deep = make_pipeline(SimpleImputer(), RandomForestClassifier(5, random_state=0))
    for model in (linear, deep):
        assert flatten(to_onnx(model.fit(matrix, fraud), FEATURES)) is None
    tree = Node(0, 1.0, False, Leaf(1.0), Leaf(2.0))
    assert flatten(as_onnx([tree], 0.0, False)) is not None
    assert flatten(as_onnx([tree], 0.0, False, mode="BRANCH_LT")) is None


def test_what_is_no_onnx_file_is_left_to_onnxruntime_to_refuse() -> None:
    assert flatten(b"no model") is None


def test_what_onnxruntime_cannot_run_is_left_to_it_to_refuse() -> None:
    """An imputer's indicators are lost on the way to ONNX: the trees ask for inputs that are not there."""
    matrix, fraud = table(2_000)
    model = make_pipeline(SimpleImputer(add_indicator=True), RandomForestClassifier(9, max_depth=5, random_state=0))
    content = to_onnx(model.fit(matrix, fraud), FEATURES)
    assert flatten(content) is None
    with pytest.raises(BundleRefused, match="model 'final' does not run on 3 inputs"):
        Layer("final", ["a", "b", "c"], content)


def test_other_bits_than_onnxruntimes_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    content = as_onnx([Node(0, 1.0, False, Leaf(1.0), Leaf(2.0))], 0.0, False)

    class Wrong(Trees):
        def __call__(self, matrix: Any) -> Any:
            found = super().__call__(matrix)
            found[-1] = np.nextafter(found[-1], np.float32(9))
            return found

    monkeypatch.setattr(flattening, "Trees", Wrong)
    assert flatten(content) is None


def parts(**changed: Any) -> bytes:
    """One step on three inputs, as a file; with other arrays where they are given."""
    step = {"kind": 0, "feature": 0, "threshold": 1.0, "yes": 1.0, "no": 2.0, "slot": 0, "other": 0, "last": 1}
    rest = {"filled": [np.nan] * FEATURES, "base": [0.0], "logistic": [0]}
    return packed({**{n: [v] for n, v in step.items()}, **rest, **changed})


def test_a_file_that_points_outside_is_refused() -> None:
    assert Trees(parts(), FEATURES, "model 'm'")(np.zeros((2, FEATURES), np.float32)).tolist() == [1.0, 1.0]
    for name, wrong in {"kind": 4, "feature": 2 * FEATURES, "slot": 64, "other": -1, "last": 2}.items():
        with pytest.raises(BundleRefused, match=f"model 'm'.*'{name}'"):
            Trees(parts(**{name: [wrong]}), FEATURES, "model 'm'")
    for name in STEPS | REST:
        with pytest.raises(BundleRefused, match="model 'm'"):
            Trees(parts(**{name: [0, 0]}), FEATURES, "model 'm'")
    with pytest.raises(BundleRefused, match="'filled'"):
        Trees(parts(), FEATURES + 1, "model 'm'")


def test_a_file_that_is_none_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, kind=np.zeros(1, np.int32))
    for content in (b"", b"no file", parts()[:-40], file.getvalue()):
        with pytest.raises(BundleRefused, match="its trees cannot be read"):
            Trees(content, FEATURES, "model 'm'")


def test_nodes_of_the_onnx_file_are_what_was_flattened() -> None:
    """The maker of these tests' files makes what skl2onnx makes: the checker of ONNX takes it."""
    onnx.checker.check_model(onnx.load_from_string(as_onnx([Node(1, 0.5, True, Leaf(1.0), Leaf(2.0))], 0.5, True)))


def test_a_bundle_carries_its_trees_and_scores_the_same_without_them() -> None:
    whole = bundle()
    flat = [model for model in whole.models if "trees" in model]
    assert flat
    assert all(model["trees"] in whole.files for model in flat)
    models = [{k: v for k, v in model.items() if k != "trees"} for model in whole.models]
    bare = Bundle.of({**whole.manifest, "models": models}, {n: c for n, c in whole.files.items() if ".trees" not in n})
    rows, _ = columns(300, seed=3)
    scorers = [Scorer(plan(), made) for made in (whole, bare)]
    assert [isinstance(layer._probability, Trees) for layer in scorers[0].layers] == [
        "trees" in model for model in whole.models
    ]
    assert not any(isinstance(layer._probability, Trees) for layer in scorers[1].layers)
    found = [scorer.score(rows) for scorer in scorers]
    assert found[0].score.tobytes() == found[1].score.tobytes()
    for name, output in found[0].outputs.items():
        assert output.tobytes() == found[1].outputs[name].tobytes()


@pytest.mark.parametrize("wrong", ["elsewhere.trees", None, 5, ["final.trees"], {"final.trees": 1}])
@pytest.mark.parametrize("word", ["file", "trees"])
def test_a_manifest_that_names_files_that_are_not_there_is_refused(word: str, wrong: Any) -> None:
    whole = bundle()
    models = [{**model, word: wrong} for model in whole.models]
    with pytest.raises(BundleRefused, match="names a model without its file"):
        Bundle.of({**whole.manifest, "models": models}, whole.files)
