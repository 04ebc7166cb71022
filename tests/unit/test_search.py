"""The search for parameters: its budget, its seed, what it may look at, what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.tree import DecisionTreeClassifier

from batch.given import Given
from batch.pipeline import Pipeline
from batch.pipeline_search import SearchFile, searching
from batch.search import DEFAULT, FAILED, PRUNED, WARM, Found, Search, Trial, gain_of
from batch.search_history import FOUND, HISTORY, PICTURE, draw, history_table
from batch.train import Learner, Span, Trained, train
from batch.training_set import TrainingSet
from riskflow.bundle import Bundle
from riskflow.declare import Between, Model, OneOf, Space
from riskflow.errors import DeclarationError
from riskflow.plan import Plan
from tests.unit.kernel_cases import plan_of
from tests.unit.training_cases import DAY, linear, noise, rows, small_plan
from tests.unit.training_cases import labels as reports

DATA = rows(1500)


def stump(max_depth: int = 1, min_samples_leaf: int = 1) -> Any:
    return DecisionTreeClassifier(max_depth=max_depth, min_samples_leaf=min_samples_leaf, random_state=0)


DEEPER: Space = {"max_depth": Between(1, 8), "min_samples_leaf": Between(1, 200, log=True)}


def searched_plan(factory: Callable[..., Any] = stump, space: Space = DEEPER) -> Plan:
    """One layer that a search may change, below one that it may not."""
    return plan_of(
        noise,
        reports=reports,
        hint=Model(uses=["amount", "noise"], candidates={"tree": factory}, search={"tree": space}),
        verdict=Model(uses=["hint", "amount"], candidates={"linear": linear}),
    )


def span(data: TrainingSet = DATA) -> Span:
    return Span.of(data, 7 * DAY, 4)


def searched(
    plan: Plan, folder: Path | None = None, begin: Bundle | None = None, data: TrainingSet = DATA, **wishes: Any
) -> tuple[Learner, Found]:
    """The only searched layer of a plan, after its search."""
    search = Search(SearchFile(**wishes), folder, begin)
    learner = Learner(plan, data, span(data), Given(search))
    search.find(learner, ["linear"])
    return learner, next(iter(search.found.values()))


def bundle_with(parameters: dict[str, Any], candidate: str = "tree") -> Any:
    """What a search looks at in a bundle that it begins from."""
    layers = {"hint": {"candidate": candidate, "recipe": "", "parameters": parameters}}

    class Begun:
        version = 7
        metrics = {"layers": layers}  # noqa: RUF012

    return Begun()


# ---- budget and seed -------------------------------------------------------------------------------------------------


def test_without_a_budget_nothing_is_searched() -> None:
    assert SearchFile().on is False
    assert SearchFile(trials=1).on
    assert SearchFile(seconds=0.5).on
    assert Pipeline().file.search.on is False


@settings(max_examples=8, deadline=None)
@given(trials=st.integers(1, 7), seed=st.integers(0, 2**31 - 1))
def test_no_more_trials_than_allowed_and_the_same_seed_finds_the_same(trials: int, seed: int) -> None:
    one, other = (searched(searched_plan(), trials=trials, seed=seed)[1] for _ in range(2))
    assert len(one.trials) == trials
    assert one.trials[0].origin == DEFAULT
    assert one.trials[0].parameters == {"max_depth": 1, "min_samples_leaf": 1}
    assert [timeless(t) for t in one.trials] == [timeless(t) for t in other.trials]
    assert one.summary() == other.summary()


def timeless(trial: Trial) -> tuple[Any, ...]:
    return (trial.number, trial.origin, trial.state, trial.parameters, tuple(trial.parts), trial.error)


def test_another_seed_tries_something_else() -> None:
    one, other = (searched(searched_plan(), trials=4, seed=seed)[1] for seed in (1, 2))
    assert [t.parameters for t in one.trials[1:]] != [t.parameters for t in other.trials[1:]]


@settings(max_examples=10, deadline=None)
@given(seconds=st.floats(0.5, 20), step=st.floats(0.1, 3))
def test_no_trial_begins_when_the_time_is_up(seconds: float, step: float) -> None:
    began: list[float] = []
    now = [0.0]

    def clock() -> float:
        return now[0]

    def factory(max_depth: int = 1) -> Any:
        if not began or began[-1] != now[0]:
            began.append(now[0])
        now[0] += step / 3  # a trial fits three parts
        return stump(max_depth)

    search = Search(SearchFile(seconds=seconds), clock=clock)
    learner = Learner(searched_plan(factory, {"max_depth": Between(1, 8)}), DATA, span(), Given(search))
    search.find(learner, ["linear"])
    trials = next(iter(search.found.values())).trials
    starts = np.cumsum([0.0, *(t.seconds for t in trials)])[:-1]
    assert starts[-1] < seconds
    assert sum(t.seconds for t in trials) >= seconds, "and none is given away"


def test_time_is_shared_between_layers() -> None:
    now = [0.0]

    def slow(max_depth: int = 1) -> Any:
        now[0] += 1.0
        return stump(max_depth)

    space: Space = {"max_depth": Between(1, 8)}
    plan = plan_of(
        noise,
        reports=reports,
        first=Model(uses=["amount"], candidates={"tree": slow}, search={"tree": space}),
        second=Model(uses=["noise"], candidates={"tree": slow}, search={"tree": space}),
        verdict=Model(uses=["first", "second"], candidates={"linear": linear}),
    )
    search = Search(SearchFile(seconds=24.0), clock=lambda: now[0])
    search.find(Learner(plan, DATA, span(), Given(search)), ["linear"])
    assert {f.layer: len(f.trials) for f in search.found.values()} == {"first": 4, "second": 4}


# ---- what is found ---------------------------------------------------------------------------------------------------


def test_better_parameters_are_found_and_trained_with() -> None:
    learner, found = searched(searched_plan(), trials=12, least_gain=0.01)
    assert found.origin == "sampled"
    assert found.gain is not None
    assert found.gain >= 0.01
    assert learner.parameters == {"hint=tree()": found.parameters}
    trained = learner.race("linear")
    learner.refit(trained)
    tree = trained.estimators["hint"]
    assert {name: getattr(tree, name) for name in found.parameters} == found.parameters
    assert trained.notes["layers"]["hint"]["parameters"] == found.parameters
    assert trained.notes["layers"]["verdict"]["parameters"] == {}
    assert trained.notes["search"]["layers"]["hint"]["gain"] == found.gain


def test_a_gain_within_luck_leaves_the_defaults() -> None:
    learner, found = searched(searched_plan(), trials=8, least_gain=0.9)
    assert found.gain is not None, "something was better"
    assert (found.parameters, found.origin) == ({}, DEFAULT)
    assert learner.parameters == {}


def test_the_rule_of_one_standard_error_beside_a_naive_one() -> None:
    gain, error = gain_of([0.5, 0.7, 0.6], [0.4, 0.4, 0.6])
    gains = [0.1, 0.3, 0.0]
    mean = sum(gains) / 3
    variance = sum((g - mean) ** 2 for g in gains) / 2
    assert gain == pytest.approx(mean)
    assert error == pytest.approx((variance / 3) ** 0.5)
    assert gain_of([0.5], [0.4]) == (pytest.approx(0.1), None)


def test_columns_of_noise_change_nothing() -> None:
    """Where there is nothing to find, the best of many trials is luck."""
    taken = 0
    for seed in range(4):
        random = np.random.default_rng(seed)
        data = TrainingSet(DATA.columns, (random.random(len(DATA)) < 0.1).astype(np.float64))
        found = searched(searched_plan(), data=data, trials=8, seed=seed, least_gain=0.05)[1]
        taken += bool(found.parameters)
    assert taken == 0


def test_class_weights_and_choices_may_be_searched() -> None:
    def weighted(class_weight: str | None = None) -> Any:
        return DecisionTreeClassifier(max_depth=3, class_weight=class_weight, random_state=0)

    found = searched(searched_plan(weighted, {"class_weight": OneOf(None, "balanced")}), trials=6)[1]
    assert {t.parameters["class_weight"] for t in found.trials} == {None, "balanced"}


def test_a_trial_that_fails_is_written_down_and_skipped(tmp_path: Path) -> None:
    def fragile(max_depth: int = 1) -> Any:
        if max_depth > 4:
            raise MemoryError(f"{max_depth} is too deep")
        return stump(max_depth)

    found = searched(searched_plan(fragile, {"max_depth": Between(1, 8)}), tmp_path, trials=12)[1]
    failed = [t for t in found.trials if t.state == FAILED]
    assert failed
    assert all(t.error == f"MemoryError: {t.parameters['max_depth']} is too deep" for t in failed)
    assert found.parameters.get("max_depth", 1) <= 4
    assert pl.read_parquet(tmp_path / HISTORY)["state"].to_list().count(FAILED) == len(failed)


def test_hopeless_trials_are_given_up_early() -> None:
    found = searched(searched_plan(), trials=25, seed=3)[1]
    pruned = [t for t in found.trials if t.state == PRUNED]
    assert pruned
    assert all(len(t.parts) == 2 for t in pruned), "one part says little, and after three there is nothing to save"
    assert all(t.value is None for t in pruned), "what was not seen to its end wins nothing"


# ---- what may be looked at -------------------------------------------------------------------------------------------


def test_the_search_never_sees_the_validation_span() -> None:
    """Other verdicts and amounts there, and the search tries and finds the same."""
    newest = span().part(DATA) == span().last
    amount = np.where(newest, 1.0, np.asarray(DATA.columns["amount"]))
    turned = TrainingSet({**DATA.columns, "amount": amount}, np.where(newest, 1 - DATA.fraud, DATA.fraud))
    ours, theirs = (searched(searched_plan(), data=data, trials=5)[1] for data in (DATA, turned))
    assert [timeless(t) for t in ours.trials] == [timeless(t) for t in theirs.trials]
    assert ours.summary() == theirs.summary()
    assert len(ours.trials[0].parts) == span().last - 1


def test_part_scores_beside_naive_ones() -> None:
    plan = searched_plan()
    learner, cut = Learner(plan, DATA, span()), span()
    part, x = cut.part(DATA), np.column_stack([DATA.columns[n] for n in ("amount", "noise")]).astype(np.float32)
    for gap_days in (0, 3):
        naive = []
        for now in range(1, cut.last):
            before = DATA.at_ms < cut.edges_ms[now] - gap_days * DAY
            tree = stump(4).fit(x[before], DATA.fraud[before])
            naive.append(average_precision_score(DATA.fraud[part == now], tree.predict_proba(x[part == now])[:, 1]))
        assert list(learner.part_scores("hint", "linear", {"max_depth": 4}, gap_days * DAY)) == pytest.approx(naive)


def test_a_gap_that_leaves_nothing_to_learn_from_is_said() -> None:
    found = searched(searched_plan(), trials=2, gap="60d")[1]
    assert [t.error for t in found.trials] == ["no part has enough frauds before it to learn from"] * 2
    assert found.parameters == {}


def test_what_candidates_share_is_searched_once_and_layers_above_hear_what_was_found() -> None:
    def upper(max_depth: int = 2) -> Any:
        return stump(max_depth)

    space: Space = {"max_depth": Between(1, 5)}
    plan = plan_of(
        noise,
        reports=reports,
        hint=Model(uses=["amount"], candidates={"tree": stump}, search={"tree": DEEPER}),
        verdict=Model(
            uses=["hint", "noise"], candidates={"one": upper, "other": upper, "linear": linear},
            search={"one": space, "other": space},
        ),
    )  # fmt: skip
    search = Search(SearchFile(trials=3))
    learner = Learner(plan, DATA, span(), Given(search))
    search.find(learner, ["one", "other", "linear"])
    assert list(search.found) == ["hint=tree()", "verdict=one(hint=tree())", "verdict=other(hint=tree())"]
    assert search.summary(["hint=tree()", "verdict=linear(hint=tree())"])["layers"].keys() == {"hint"}


# ---- again and again -------------------------------------------------------------------------------------------------


class Killed(DecisionTreeClassifier):  # type: ignore[misc]
    """The process ends while the fit of this number is under way."""

    until: ClassVar[int] = 0

    def fit(self, *rows: Any, **options: Any) -> Any:
        Killed.until -= 1
        if not Killed.until:
            raise KeyboardInterrupt
        return super().fit(*rows, **options)


def fragile(max_depth: int = 1, min_samples_leaf: int = 1) -> Any:
    return Killed(max_depth=max_depth, min_samples_leaf=min_samples_leaf, random_state=0)


@pytest.mark.parametrize("fits", [2, 11])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path, fits: int) -> None:
    """While the defaults were tried, and later."""
    plan = searched_plan(fragile)
    Killed.until = fits
    with pytest.raises(KeyboardInterrupt):
        searched(plan, tmp_path, trials=7, seed=5)
    resumed = searched(plan, tmp_path, trials=7, seed=5)[1]
    whole = searched(plan, tmp_path / "whole", trials=7, seed=5)[1]
    assert [timeless(t) for t in resumed.trials] == [timeless(t) for t in whole.trials]
    again = searched(plan, tmp_path, trials=7, seed=5)[1]
    assert [t.seconds for t in again.trials] == [t.seconds for t in resumed.trials], "a finished one is only read"


def test_other_rows_are_another_search(tmp_path: Path) -> None:
    first = searched(searched_plan(), tmp_path, trials=3)[1]
    other = searched(searched_plan(), tmp_path, data=rows(1500, seed=9), trials=3)[1]
    assert [t.parts for t in first.trials] != [t.parts for t in other.trials]


def test_the_history_is_a_table_a_file_and_a_picture(tmp_path: Path) -> None:
    found = searched(searched_plan(), tmp_path, trials=12)[1]
    table = pl.read_parquet(tmp_path / HISTORY)
    assert table.height == 12
    assert table["layer"].unique().to_list() == ["hint"]
    assert json.loads(table["parameters"][0]) == {"max_depth": 1, "min_samples_leaf": 1}
    said = json.loads((tmp_path / FOUND).read_text())
    assert said[0]["parameters"] == found.parameters
    assert said[0]["best"] == max(t.value for t in found.trials if t.value is not None)
    assert set(said[0]["importance"]) <= set(DEEPER)
    assert sum(said[0]["importance"].values()) == pytest.approx(1)
    picture = (tmp_path / PICTURE).read_bytes()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    draw([found], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == picture


def test_a_history_without_trials_can_be_written() -> None:
    assert history_table([]).height == 0
    assert history_table([Found("k", "hint", "tree", {})]).height == 0


# ---- warm start ------------------------------------------------------------------------------------------------------


def test_parameters_of_another_bundle_are_tried_after_the_defaults() -> None:
    found = searched(searched_plan(), begin=bundle_with({"max_depth": 5}), trials=3)[1]
    assert [t.origin for t in found.trials] == [DEFAULT, WARM, "sampled"]
    assert found.trials[1].parameters == {"max_depth": 5, "min_samples_leaf": 1}


def test_without_a_budget_they_are_taken_as_they_are() -> None:
    learner, found = searched(searched_plan(), begin=bundle_with({"max_depth": 5}))
    assert (found.origin, found.trials) == (WARM, ())
    assert learner.race("linear").notes["layers"]["hint"]["parameters"] == {"max_depth": 5}


@pytest.mark.parametrize(
    ("begin", "remark"),
    [
        (bundle_with({"max_depth": 99}), "warm start left out: max_depth not in the search"),
        (bundle_with({"renamed": 1, "max_depth": 2}), "warm start left out: renamed not in the search"),
        (bundle_with({"max_depth": 5}, candidate="forest"), ""),
    ],
)
def test_what_the_search_does_not_allow_is_left_out(begin: Any, remark: str) -> None:
    found = searched(searched_plan(), begin=begin, trials=2)[1]
    assert [t.origin for t in found.trials] == [DEFAULT, "sampled"]
    assert found.remark == remark


# ---- declarations ----------------------------------------------------------------------------------------------------


def test_a_search_needs_keyword_arguments_with_defaults_inside_their_range() -> None:
    def build(**search: Any) -> Model:
        return Model(uses=["amount"], candidates={"tree": stump}, search=search)

    with pytest.raises(DeclarationError, match="is for no candidate"):
        build(forest={"max_depth": Between(1, 3)})
    with pytest.raises(DeclarationError, match="no keyword argument with a default"):
        build(tree={"depth": Between(1, 3)})
    with pytest.raises(DeclarationError, match="leaves out its default, 1"):
        build(tree={"max_depth": Between(2, 3)})
    with pytest.raises(DeclarationError, match=r"Give Between\(low, high\)"):
        build(tree={"max_depth": [1, 2]})
    with pytest.raises(DeclarationError, match="has no room"):
        Between(3, 3)
    with pytest.raises(DeclarationError, match="starts at 0"):
        Between(0, 3, log=True)
    with pytest.raises(DeclarationError, match="is no choice"):
        OneOf("one")


def test_ranges_know_their_values() -> None:
    assert 3 in Between(1, 5)
    assert 3.0 not in Between(1, 5)
    assert True not in Between(0, 5)
    assert 1 in Between(0.5, 2.0)
    assert 2.1 not in Between(0.5, 2.0)
    assert None in OneOf(None, "balanced")
    assert 1 not in OneOf(True, False)


def test_pipeline_yaml_says_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("search: {trials: 5, gap: 7d, warm_start: champion}")
    wishes = Pipeline.load(path).file.search
    assert (wishes.trials, wishes.gap_ms, wishes.warm_start) == (5, 7 * DAY, "champion")
    path.write_text("span: 28d\nsearch: {gap: soon}")
    with pytest.raises(DeclarationError, match=r"line 2, search.gap"):
        Pipeline.load(path)
    path.write_text("search: {trials: -1}")
    with pytest.raises(DeclarationError, match="trials"):
        Pipeline.load(path)
    assert searching(Pipeline(), 4, None).file.search == SearchFile(trials=4)


def test_what_was_found_survives_the_way_from_one_task_to_the_next(tmp_path: Path) -> None:
    search = Search(SearchFile(trials=4))
    trained = train(searched_plan(), DATA, span(), ["linear"], Given(search))[0]
    trained.write(tmp_path)
    assert Trained.read(tmp_path).notes == trained.notes
    assert "search" not in train(small_plan(), DATA, span(), ["linear"])[0].notes
