"""Layers that are not trained here: models of other bundles as inputs, and the champion's beside one that is new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from batch.given import Given, given_for
from batch.judge import Judged, judge
from batch.kept import keep
from batch.pipeline import Pipeline, PipelineFile
from batch.pipeline_search import SearchFile, searching
from batch.run import Run
from batch.train import Learner, Span, train
from batch.training_set import TrainingSet
from batch.transfer import Transferred, fetch, merged_dictionaries
from cli import retrain as command
from riskflow.bundle import Bundle, check_golden, sign, verify
from riskflow.declare import Between, Model, Transfer
from riskflow.errors import DeclarationError, RiskflowError
from riskflow.keys import load_private_key, make_keys, public_keys_of
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import load
from tests.unit.kernel_cases import plan_of
from tests.unit.test_train import Spy
from tests.unit.training_cases import DAY, labels, linear, noise, rows, small_plan, tree

DATA = rows()
MIDDLE = int(DATA.at_ms[0]) + 9 * DAY
OLD, NEW = DATA.rows(DATA.at_ms < MIDDLE), DATA.rows(DATA.at_ms >= MIDDLE)
KEY = Ed25519PrivateKey.generate()


def judged(
    plan: Plan, data: TrainingSet, given: Given | None = None, candidates: tuple[str, ...] = ("linear",)
) -> Judged:
    span = Span.of(data, 7 * DAY, 4)
    return judge(plan, Pipeline(), data, span.validation(data), train(plan, data, span, candidates, given))


def bundle_of(plan: Plan, data: TrainingSet, given: Given | None = None) -> Bundle:
    found = judged(plan, data, given).bundle
    assert found is not None
    return found.with_version(4)


# ---- models of other bundles -----------------------------------------------------------------------------------------


def listening_plan(**more: Any) -> Plan:
    """A model that listens to what another bundle says."""
    named = {
        "abroad": Transfer("elsewhere"),
        "verdict": Model(uses=["abroad", "noise"], candidates={"linear": linear}),
        **more,
    }
    return plan_of(noise, reports=labels, **named)


def abroad(plan: Plan | None = None) -> Transferred:
    return Transferred.of(plan or listening_plan(), "abroad", bundle_of(small_plan(), OLD))


def test_another_bundles_models_travel_as_layers_of_their_own() -> None:
    plan, other = listening_plan(), bundle_of(small_plan(), OLD)
    bundle = bundle_of(plan, NEW, Given(transferred=(abroad(),)))
    assert [(m["name"], m["inputs"]) for m in bundle.models] == [
        ("abroad_hint", ["amount"]),
        ("abroad", ["abroad_hint", "noise"]),
        ("verdict", ["abroad", "noise"]),
    ]
    assert bundle.files["abroad.onnx"] == other.files["verdict.onnx"]
    assert set(bundle.needed) >= {"amount", "noise"}
    assert bundle.metrics["transferred"] == {
        "abroad": {"usecase": other.usecase, "version": 4, "last_ms": other.data["last_ms"]}
    }
    published = verify(sign(bundle, KEY).to_bytes(), public_keys_of(KEY), plan=plan)
    check_golden(Scorer(plan, published))
    scored, theirs = Scorer(plan, published).score(NEW.columns), Scorer(small_plan(), other).score(NEW.columns)
    np.testing.assert_array_equal(scored.outputs["abroad"], theirs.outputs["verdict"])
    assert any(scored.reasons(np.arange(5))), "reasons reach through it"


def test_rows_that_a_transferred_model_may_have_seen_get_no_output_of_it() -> None:
    plan, one = listening_plan(), replace(abroad(), last_ms=int(NEW.at_ms[500]))
    learner = Learner(plan, NEW, Span.of(NEW, 7 * DAY, 4), Given(transferred=(one,)))
    outputs = learner._transferred["abroad"]
    np.testing.assert_array_equal(np.isnan(outputs), NEW.at_ms <= one.last_ms)
    _, usable = learner._matrix("verdict", "linear")
    np.testing.assert_array_equal(usable, NEW.at_ms > one.last_ms)


def test_a_transferred_model_that_has_seen_too_much_is_refused() -> None:
    with pytest.raises(RiskflowError, match=r"learned from rows up to .* only later ones .*, 0 of"):
        judged(listening_plan(), OLD, Given(transferred=(abroad(),)))
    with pytest.raises(DeclarationError, match="was not fetched"):
        judged(listening_plan(), NEW)


def test_what_a_transferred_model_listens_to_must_be_the_same_here() -> None:
    def noise(at_ms: Any) -> Any:
        return np.asarray(at_ms, np.float64) % 7.0

    other = plan_of(
        noise, reports=labels, abroad=Transfer("elsewhere"),
        verdict=Model(uses=["abroad", "amount"], candidates={"linear": linear}),
    )  # fmt: skip
    with pytest.raises(DeclarationError, match="needs 'noise', which is another here"):
        abroad(other)
    lacking = plan_of(
        reports=labels, abroad=Transfer("elsewhere"),
        verdict=Model(uses=["abroad", "amount"], candidates={"linear": linear}),
    )  # fmt: skip
    with pytest.raises(DeclarationError, match="needs 'noise', which is not here"):
        abroad(lacking)
    with pytest.raises(DeclarationError, match="brings a layer 'abroad_hint', which is there"):
        abroad(listening_plan(abroad_hint=Model(uses=["abroad"], candidates={"linear": linear}),
                              verdict=Model(uses=["abroad_hint", "noise"], candidates={"linear": linear})))  # fmt: skip


def test_two_transfers_with_other_codes_for_one_text_are_refused() -> None:
    one = replace(abroad(), dictionaries={"note": ["gift", "rent"]})
    assert merged_dictionaries([one, one]) == {"note": ["gift", "rent"]}
    with pytest.raises(DeclarationError, match="other codes for 'note'"):
        merged_dictionaries([one, replace(one, dictionaries={"note": ["rent"]})])


def test_a_transfer_is_fetched_from_the_other_use_cases_registry() -> None:
    server, keys, plan = fakeredis.FakeServer(), public_keys_of(KEY), listening_plan()

    def registries(usecase: str) -> Registry:
        return Registry(fakeredis.FakeRedis(server=server), Names(usecase))

    with pytest.raises(RiskflowError, match="elsewhere has no champion yet"):
        fetch(plan, registries, keys)
    registries("elsewhere").publish(bundle_of(small_plan(), OLD), KEY, who="ann", why="first")
    (found,) = fetch(plan, registries, keys)
    assert (found.name, found.version, found.last_ms) == ("abroad", 1, int(OLD.at_ms[-1]))
    pinned = listening_plan(abroad=Transfer("elsewhere", bundle=1))
    assert fetch(pinned, registries, keys)[0].files == found.files


def test_only_models_listen_to_a_transfer() -> None:
    def wishful(abroad: Any) -> Any:
        return abroad

    with pytest.raises(DeclarationError, match="takes the model 'abroad'"):
        plan_of(wishful, reports=labels, abroad=Transfer("elsewhere"))


# ---- one layer alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["hint", "verdict"])
def test_one_layer_is_new_and_the_others_are_the_champions(layer: str) -> None:
    plan = small_plan()
    champion = bundle_of(plan, OLD)
    kept = keep(plan, layer, champion)
    new = bundle_of(plan, DATA, Given(kept=kept))
    for name in plan.models:
        same = new.files[f"{name}.onnx"] == champion.files[f"{name}.onnx"]
        assert same == (name != layer), name
    assert new.metrics["kept"] == {"version": 4, "layers": sorted(set(plan.models) - {layer})}
    check_golden(Scorer(plan, new))


def test_an_upper_layer_alone_learns_as_if_all_were_trained() -> None:
    """Kept models have seen most of these rows; what is learned from comes from models that have not."""
    plan = small_plan()
    whole = bundle_of(plan, DATA)
    alone = bundle_of(plan, DATA, Given(kept=keep(plan, "verdict", bundle_of(plan, OLD))))
    assert alone.files["verdict.onnx"] == whole.files["verdict.onnx"]


def test_a_kept_layer_is_fitted_out_of_time_with_the_parameters_it_was_made_with() -> None:
    def deep(max_depth: int = 2) -> Any:
        return DecisionTreeClassifier(max_depth=max_depth, random_state=0)

    plan = plan_of(
        noise, reports=labels,
        hint=Model(uses=["amount"], candidates={"tree": deep}, search={"tree": {"max_depth": Between(1, 9)}}),
        verdict=Model(uses=["hint", "noise"], candidates={"linear": linear, "tree": tree}),
    )  # fmt: skip
    champion = bundle_of(plan, OLD)
    champion.manifest["metrics"]["layers"]["hint"]["parameters"] = {"max_depth": 7}
    learner = Learner(plan, DATA, Span.of(DATA, 7 * DAY, 4), Given(kept=keep(plan, "verdict", champion)))
    matrix, usable = learner._matrix("hint", "tree")
    assert learner._fit("hint", "tree", matrix, usable).max_depth == 7
    assert learner.choice("verdict", "tree") == "tree", "the layer that is trained may race"


def other_linear() -> Any:
    return LogisticRegression(C=0.5)


def changed(**models: Model) -> Plan:
    base = {
        "hint": Model(uses=["amount"], candidates={"lower": linear}),
        "verdict": Model(uses=["hint", "noise"], candidates={"linear": linear, "tree": tree}),
    }
    return plan_of(noise, reports=labels, **{**base, **models})


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (lambda: changed(hint=Model(uses=["amount", "noise"], candidates={"lower": linear})),
         "'hint' listens to other inputs: without none, with noise"),
        (lambda: changed(hint=Model(uses=["amount"], candidates={"lower": other_linear})),
         "the function of 'hint', candidate 'lower', has changed"),
        (lambda: changed(hint=Model(uses=["amount"], candidates={"renamed": linear})),
         "'hint' no longer has its candidate 'lower'"),
        (lambda: changed(second=Model(uses=["amount"], candidates={"lower": linear}),
                         verdict=Model(uses=["hint", "second"], candidates={"linear": linear})),
         "'second' is a new layer"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_changed(plan: Callable[[], Plan], why: str) -> None:
    champion = bundle_of(small_plan(), OLD)
    with pytest.raises(RiskflowError, match=rf"'verdict' cannot be trained alone beside bundle 4: {why}"):
        keep(plan(), "verdict", champion)


def test_a_feature_of_a_kept_layer_that_changed_is_named() -> None:
    champion = bundle_of(small_plan(), OLD)
    champion.manifest["needed"]["noise"] = "another"
    with pytest.raises(RiskflowError, match="'verdict' needs 'noise', which has changed"):
        keep(small_plan(), "hint", champion)
    keep(small_plan(), "verdict", champion)  # its own inputs may change: it is trained anew


def test_what_is_missing_for_a_layer_alone_is_said() -> None:
    with pytest.raises(DeclarationError, match=r"'nobody'.*One of: hint, verdict"):
        keep(small_plan(), "nobody", None)
    with pytest.raises(RiskflowError, match="no champion whose other layers"):
        keep(small_plan(), "hint", None)
    old = bundle_of(small_plan(), OLD)
    del old.manifest["metrics"]["layers"]
    with pytest.raises(RiskflowError, match="does not say how its layers were made"):
        keep(small_plan(), "hint", old)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_no_upper_layers_input_comes_from_a_model_that_saw_the_row_or_a_later_one() -> None:
    """Layer by layer: the lower model that spoke of a row learned from strictly older rows, in race and in refit."""
    Spy.seen.clear()
    plan = small_plan(lower=Spy, linear=linear)
    time_of = {np.float32(v): at for v, at in zip(DATA.columns["amount"], DATA.at_ms, strict=True)}
    learner = Learner(plan, DATA, Span.of(DATA, 7 * DAY, 4))
    learner.race("linear")
    newest = {}
    learned: list[int] = []
    for what, x in Spy.seen:
        times = [time_of[v] for v in x[:, 0]]
        if what == "fit":
            learned = times
        else:
            newest |= dict.fromkeys(times, max(learned))
    matrix, usable = learner._matrix("verdict", "linear")
    assert usable.sum() > len(DATA) / 2
    for at in DATA.at_ms[usable].tolist():
        assert newest[at] < at
    assert not np.isnan(matrix[usable]).any()


# ---- what a run asks for ---------------------------------------------------------------------------------------------


def test_the_registry_is_looked_at_only_where_it_is_needed(tmp_path: Any) -> None:
    def away(usecase: str) -> Registry:
        raise AssertionError("nobody asked")

    assert given_for(small_plan(), Pipeline(), away, tmp_path, None) == Given()
    given = given_for(small_plan(), searching(Pipeline(), 3, None), away, tmp_path, None)
    assert given.search is not None


def test_a_layer_alone_is_for_this_machine() -> None:
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["card_fraud", "--layer", "fraud"])
    assert result.exit_code == 2
    assert "--local" in result.output


def test_a_run_of_one_layer_races_what_that_layer_knows(tmp_path: Path) -> None:
    run = Run(small_plan(), Pipeline(), load(home=tmp_path), "tried", layer="hint")
    assert run.candidates == ["lower"]
    assert replace(run, layer="verdict").candidates == ["linear", "tree"]
    assert replace(run, layer=None).candidates == ["linear", "tree"]


def test_a_run_asks_its_own_registry_for_the_champion_and_the_warm_start(tmp_path: Path) -> None:
    server, plan = fakeredis.FakeServer(), small_plan()
    make_keys(tmp_path)
    wishes = PipelineFile(search=SearchFile(warm_start="champion"))

    def registries(usecase: str) -> Registry:
        return Registry(fakeredis.FakeRedis(server=server), Names(usecase))

    assert given_for(plan, Pipeline(wishes), registries, tmp_path, None) == Given(), (
        "there is no champion to begin from"
    )
    registries(plan.name).publish(bundle_of(plan, OLD), load_private_key(tmp_path), who="ann", why="first")
    given = given_for(plan, Pipeline(wishes), registries, tmp_path, None, layer="verdict")
    assert given.search is not None
    assert given.kept is not None
    assert (given.kept.version, set(given.kept.models)) == (1, {"hint"})
    assert given.search.summary([])["warm_start"] == 1
