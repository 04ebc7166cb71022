"""What a plan refuses, in words that help; what its fingerprints say; and `riskflow plan`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from riskflow.declare import Count, Distinct, Entity, Feed, Max, Mean, Model, Sum, Windows, mark, over
from riskflow.errors import DeclarationError
from riskflow.plan import Plan
from riskflow.usecase import load_usecase
from tests.unit.kernel_cases import card, half, plan_of, reports, shop

spent = Windows(by=card, over=["1d", "30d"], amount=[Mean()])
estimators = {"none": lambda: None}


def refused(*functions: Callable[..., Any], **named: Any) -> str:
    """The message; it always names who, what was found, and the fix."""
    with pytest.raises(DeclarationError) as error:
        plan_of(*functions, **named)
    assert error.value.who
    assert error.value.found
    assert error.value.fix
    return str(error.value)


# ---- refusals --------------------------------------------------------------------------------------------------------


def unknown_input(amuont: Any) -> Any:
    return amuont


def takes_id(card: Any) -> Any:
    return card


def takes_text(note: Any) -> Any:
    return note


def takes_model(risk: Any) -> Any:
    return risk


def ring_a(ring_b: Any) -> Any:
    return ring_b


def ring_b(ring_a: Any) -> Any:
    return ring_a


def scalar(amount: Any) -> Any:
    return 3.0


def pair(amount: Any) -> Any:
    return np.column_stack([amount, amount])


def words(amount: Any) -> Any:
    return np.full(len(amount), "high")


def over_mean(amount: Any) -> Any:
    return amount / (1.0 + np.nansum(amount))


def by_chance(amount: Any) -> Any:
    return np.random.default_rng().random(len(amount))


def overwrites(amount: Any) -> Any:
    amount[np.isnan(amount)] = 0.0
    return amount


def raises(amount: Any) -> Any:
    raise RuntimeError("no table")


def two_feeds(amount: Any, is_fraud: Any) -> Any:
    return amount * is_fraud


def test_inputs_that_are_not_known() -> None:
    assert "calculation 'unknown_input': takes 'amuont'" in refused(unknown_input)
    assert "amount" in refused(unknown_input)
    assert "takes the id 'card'" in refused(takes_id)
    assert "takes the text 'note'" in refused(takes_text)
    assert "Only models listen to models" in refused(takes_model, risk=Model(uses=["amount"], candidates=estimators))
    assert "No row has all of them" in refused(two_feeds)


def test_circles() -> None:
    assert "ring_a, ring_b: need each other in a circle" in refused(ring_a, ring_b)
    one, two = (Model(uses=[u, "amount"], candidates=estimators) for u in ("two", "one"))
    assert "models one, two: listen to each other in a circle" in refused(one=one, two=two)


@pytest.mark.parametrize("function", [scalar, pair, words])
def test_functions_of_the_wrong_shape(function: Callable[..., Any]) -> None:
    message = refused(function)
    assert f"calculation '{function.__name__}': returned" in message
    assert "shape (7,)" in message


@pytest.mark.parametrize("function", [over_mean, by_chance])
def test_functions_that_look_at_other_rows_or_at_chance(function: Callable[..., Any]) -> None:
    assert "when other rows stand beside it" in refused(function)


@pytest.mark.parametrize("function", [overwrites, raises])
def test_functions_that_fail_or_write_into_their_input(function: Callable[..., Any]) -> None:
    assert f"calculation '{function.__name__}': raised" in refused(function)


def test_names_taken_twice() -> None:
    assert "calculation 'half': has the name of a field" in refused(
        half, other=Feed("other", id="i", at="t", fields={"half": float})
    )
    assert "has the name of a" in refused(
        spent=spent, spent_amount_mean_1d=Model(uses=["amount"], candidates=estimators)
    )
    assert "name one field twice" in refused(again=Entity("card", optional=True))
    assert "is an entity" in refused(other=Feed("other", id="i", at="t", fields={"shop": str}))
    assert "has a reserved name" in refused(other=Feed("other", id="i", at="t", fields={"at_ms": float}))


def test_types_that_differ_between_feeds() -> None:
    other = Feed("other", id="i", at="t", fields={"amount": bool})
    assert "field 'amount': is a flag here and a number before" in refused(other=other)
    other = Feed("other", id="i", at="t", fields={"channel": Literal["chip", "phone"]})
    assert "is a category of chip, phone here and a category of chip, online before" in refused(other=other)


def test_patterns_that_match_raw_fields_ids_or_nothing() -> None:
    for pattern, found in (("am*", "amount"), ("car?", "card"), ("*", "amount"), ("[as]*", "shop")):
        message = refused(spent=spent, risk=Model(uses=[pattern], candidates=estimators))
        assert "matches the raw fields" in message
        assert found in message
    assert "matches no feature" in refused(spent=spent, risk=Model(uses=["spnt_*"], candidates=estimators))
    plan = plan_of(spent=spent, risk=Model(uses=["spent_*", "amount"], candidates=estimators))
    assert plan.model_inputs("risk") == ("spent_amount_mean_1d", "spent_amount_mean_30d", "amount")


def test_two_last_models() -> None:
    one, two = (Model(uses=["amount"], candidates=estimators) for _ in range(2))
    assert "one, two: are all last" in refused(one=one, two=two)


def doubled(spent_amount_mean_1d: Any) -> Any:
    return 2.0 * spent_amount_mean_1d


@mark(by=shop)
def seen(amount: float) -> bool:
    return amount > 0.0


def test_windows_over_what_is_known_only_later() -> None:
    by_card = lambda **fields: Windows(by=card, over=["1d"], **fields)  # noqa: E731
    later = "is known only after entity 'card' has been observed"
    assert later in refused(doubled, spent=spent, memory=by_card(doubled=[Sum()]))
    assert later in refused(spent=spent, memory=by_card(spent_amount_mean_1d=[Sum()]))
    assert later in refused(seen=seen, memory=by_card(seen=[Sum()]))
    plan_of(doubled, spent=spent, memory=Windows(by=shop, over=["1d"], doubled=[Sum()]))


def test_windows_that_cannot_be() -> None:
    risk = Model(uses=["amount"], candidates=estimators)
    assert "is the output of a model" in refused(risk=risk, memory=Windows(by=shop, over=["1d"], risk=[Sum()]))
    assert "amuont" in refused(spent=Windows(by=card, over=["1d"], amuont=[Sum()]))
    assert "has a window of 91d. Use 1m to 90d" in refused(spent=Windows(by=card, over=["91d"], amount=[Sum()]))
    assert "has a window of 30s" in refused(spent=Windows(by=card, over=["30s"], amount=[Sum()]))
    assert "Only Distinct" in refused(spent=Windows(by=card, over=["1d"], channel=[Max()]))
    assert "Only Distinct" in refused(spent=Windows(by=card, over=["1d"], shop=[Count()]))
    assert "Count and TimeSinceLast only" in refused(spent=Windows(by=card, over=["1d"], events=[Sum()]))
    assert "is not known in rows of feed 'reports'" in refused(
        spent=Windows(by=card, over=["1d"], on=reports, amount=[Sum()])
    )
    assert "which is no entity here" in refused(spent=Windows(by=Entity("till"), over=["1d"], amount=[Sum()]))
    stranger = Feed("stranger", id="i", at="t", fields={})
    assert "which is no feed here" in refused(spent=Windows(by=card, over=["1d"], on=stranger, events=[Count()]))
    plan_of(spent=Windows(by=card, over=["1d"], channel=[Distinct()], shop=[Distinct()]))


LIMITS = {"chip": 1.0}


@mark(by=card)
def raising(amount: float) -> float:
    if amount > 3.0:
        raise ValueError("too much")
    return amount


@mark(by=card)
def with_table(amount: float) -> float:
    return amount * LIMITS["chip"]


@mark(by=card)
def silent(amount: float) -> None:
    amount + 1.0


@mark(by=card)
def reads_words(note: float) -> float:
    return note


@mark(by=card, on=reports)
def of_other_feed(amount: float) -> float:
    return amount


@mark(by=card)
def first(second: float) -> float:
    return second


@mark(by=card)
def second(amount: float) -> float:
    return amount


@mark(by=card)
def after_later(seen: float) -> float:
    return seen


@mark(by=card)
def broken(amount: float) -> float:
    return amount.nothing  # type: ignore[attr-defined,no-any-return]


def test_marks_that_cannot_be() -> None:
    assert "mark 'raising': has a `raise`" in refused(raising=raising)
    assert "mark 'with_table': refers to 'LIMITS', a dict" in refused(with_table=with_table)
    assert "mark 'silent': returned None" in refused(silent=silent)
    assert "mark 'reads_words': takes the text 'note'" in refused(reads_words=reads_words)
    assert "which rows of feed 'reports' do not have" in refused(of_other_feed=of_other_feed)
    assert "takes the mark 'second', which is made after it" in refused(first=first, second=second)
    assert "mark 'after_later': takes 'seen', which is not known here" in refused(after_later=after_later, seen=seen)
    assert "mark 'broken': raised AttributeError" in refused(broken=broken)
    plan_of(second=second, first=first)


@over("1d", "30d")
def twice_w(spent_amount_mean_w: Any) -> Any:
    return 2.0 * spent_amount_mean_w


@over("1d")
def twice(spent_amount_mean_w: Any) -> Any:
    return spent_amount_mean_w


def test_one_function_for_several_windows() -> None:
    plan = plan_of(twice_w, spent=spent)
    assert plan.nodes["twice_30d"].inputs == ("spent_amount_mean_30d",)
    assert "does not end in _w" in refused(twice, spent=spent)


def test_needed_features_follow_windows_over_ids_and_marks() -> None:
    shops = Windows(by=card, over=["1d"], shop=[Distinct()], second=[Sum()], events=[Count()])
    plan = plan_of(shops=shops, second=second, risk=Model(uses=["shops_*"], candidates=estimators))
    assert set(plan.needed()) == {*plan.model_inputs("risk"), "second", "amount"}


# ---- fingerprints: use cases written to files, as a team would change them -------------------------------------------

EVENTS = """
from riskflow.declare import Entity, Feed
card, shop = Entity("card"), Entity("shop")
payments = Feed("payments", id="payment_id", at="paid_at", fields={"amount": float})
"""
HELPERS = """
def scaled(x):
    return x * FACTOR
FACTOR = 2.0
"""
FEATURES = """
import numpy as np
from riskflow.declare import Count, Max, Mean, Sum, Windows, mark
from usecases.tried import helpers
from usecases.tried.events import card, shop
from usecases.tried.helpers import scaled as _scaled

TABLE = {"a": [1.0, 2.0]}

spent = Windows(by=card, over=["1d", "30d"], amount=[Mean()])

def size(amount):
    return _scaled(amount)

def size_again(amount):
    return helpers.scaled(amount)

def from_table(amount):
    return amount * TABLE["a"][1]

def of_size(size, spent_amount_mean_1d):
    return size / spent_amount_mean_1d

def apart(amount):
    '''Says nothing of the others.'''
    return amount + 1.0  # nor does this

of_sizes = Windows(by=card, over=["7d"], size=[Max()])

@mark(by=card)
def large(amount, of_sizes_size_max_7d, memory_large_count_7d):
    return amount > of_sizes_size_max_7d + memory_large_count_7d

memory = Windows(by=card, over=["7d"], large=[Count()])

def after(memory_large_count_7d):
    return memory_large_count_7d
"""


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[..., Plan]]:
    """Builds the plan of the files above with some text replaced, each time in a folder of its own."""
    folders = iter(range(100))

    def build(**changes: tuple[str, str]) -> Plan:
        folder = tmp_path / str(next(folders)) / "tried"
        folder.mkdir(parents=True)
        for name, text in (("events", EVENTS), ("helpers", HELPERS), ("features", FEATURES)):
            old, new = changes.get(name, ("", ""))
            assert old in text
            (folder / f"{name}.py").write_text(text.replace(old, new, 1) if old else text + new)
        return Plan.of(load_usecase("tried", folder.parent))

    yield build
    for name in [n for n in sys.modules if n == "usecases" or n.startswith("usecases.")]:
        del sys.modules[name]


def changed(one: Plan, other: Plan) -> set[str]:
    assert set(one.nodes) <= set(other.nodes)
    return {n for n in one.nodes if one.nodes[n].fingerprint != other.nodes[n].fingerprint}


def test_a_helper_that_changes_changes_what_stands_on_it(written: Callable[..., Plan]) -> None:
    on_size = {"size", "size_again", "of_size", "of_sizes_size_max_7d", "large", "memory_large_count_7d", "after"}
    plan = written()
    assert changed(plan, written()) == set()
    assert changed(plan, written(helpers=("x * FACTOR", "FACTOR * x"))) == on_size
    assert changed(plan, written(helpers=("2.0", "3.0"))) == on_size
    assert changed(plan, written(features=("2.0]", "2.5]"))) == {"from_table"}


def test_a_mark_that_changes_changes_the_windows_over_it_and_the_layout(written: Callable[..., Plan]) -> None:
    plan, other = written(), written(features=("amount > of", "amount >= of"))
    assert changed(plan, other) == {"large", "memory_large_count_7d", "after"}
    assert plan.layout_fingerprint != other.layout_fingerprint


def test_words_about_a_function_change_nothing(written: Callable[..., Plan]) -> None:
    assert changed(written(), written(features=("Says nothing", "Says nothing at all"))) == set()
    assert changed(written(), written(features=("nor does this", "nor this"))) == set()


def test_a_new_feature_changes_no_other(written: Callable[..., Plan]) -> None:
    plan = written()
    new = 'more = Windows(by=card, over=["1h"], amount=[Sum()])\n'
    new += "def news(more_amount_sum_1h): return more_amount_sum_1h\n"
    assert changed(plan, written(features=("", new))) == set()
    assert plan.layout_fingerprint != written(features=("", new)).layout_fingerprint
    assert plan.layout_fingerprint == written(features=("", "def news(amount): return amount\n")).layout_fingerprint


def test_the_order_of_declarations_changes_no_layout(written: Callable[..., Plan]) -> None:
    other = written(features=('["1d", "30d"]', '["30d", "1d"]'))
    assert written().layout_fingerprint == other.layout_fingerprint


def test_one_name_in_two_files_is_refused(written: Callable[..., Plan]) -> None:
    with pytest.raises(DeclarationError, match="has the name of something else"):
        written(events=("", 'spent = Feed("more", id="i", at="t", fields={})\n'))


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def riskflow() -> Callable[..., Any]:
    import typer

    from cli import plan

    app = typer.Typer()
    app.callback()(lambda: None)
    plan.register(app)
    return lambda *arguments: CliRunner().invoke(app, [*arguments])


def test_plan_show_lists_every_feature(riskflow: Callable[..., Any]) -> None:
    shown = riskflow("plan", "show", "card_fraud", "--json")
    assert shown.exit_code == 0
    said = json.loads(shown.stdout)
    names = [n["name"] for n in said["nodes"]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[0-9a-f]{16}", n["fingerprint"]) for n in said["nodes"] if n["name"] != "at_ms")
    table = riskflow("plan", "show", "card_fraud")
    assert table.exit_code == 0
    assert all(n in table.stdout for n in names)


def test_plan_diff_names_what_changed(riskflow: Callable[..., Any], tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    said = json.loads(riskflow("plan", "show", "card_fraud", "--json").stdout)
    saved.write_text(json.dumps(said))
    same = riskflow("plan", "diff", "card_fraud", "--against", str(saved))
    assert same.exit_code == 0
    assert "nothing" in same.stdout
    gone, other = said["nodes"].pop(), said["nodes"][-1]
    other["fingerprint"] = "0" * 16
    said["nodes"].append({**other, "name": "was_here"})
    saved.write_text(json.dumps(said))
    differs = riskflow("plan", "diff", "card_fraud", "--against", str(saved), "--json")
    assert differs.exit_code == 0
    found = json.loads(differs.stdout)
    assert (found["added"], found["changed"], found["removed"]) == ([gone["name"]], [other["name"]], ["was_here"])
