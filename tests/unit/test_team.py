"""A roster at work on one pass: who decides, what the others say, and that nobody beside the champion can do harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from riskflow.canary import in_share, salt
from riskflow.columns import Columns, Text, n_rows, take
from riskflow.evaluate import ID, TIME
from riskflow.moves import CANARY, CHAMPION
from riskflow.policy import ACTIONS
from riskflow.scoring import Scored, Scorer, Shared
from stream import head
from stream.decided import Decided, Opinion, opinion_messages
from stream.roster import Pin, Roster
from stream.swap import Live
from stream.team import Team
from tests.unit.bundle_cases import bundle, columns, plan, rules_only

ROWS = 400
SHARE = 0.3


class Broken:
    def score(self, *_: Any) -> Scored:
        raise ValueError("no such column")


def live(version: int, scorer: Any) -> Live:
    return Live(version, f"hash {version}", scorer)


class Loaded:
    """Everything is there; what is left out is remembered."""

    def __init__(self, *lives: Live) -> None:
        self.lives = {one.version: one for one in lives}
        self.left_out: list[str] = []

    async def pinned(self, pin: Pin) -> Live:
        return self.lives[pin.version]

    def leave_out(self, pin: Pin, why: str) -> None:
        self.left_out.append(pin.alias)


def events(rows: int = ROWS) -> Columns:
    found = columns()[0]
    ids = Text.of_strings(f"e{i}" for i in range(n_rows(found)))
    cards = Text.of_strings(f"c{i % 97}" for i in range(n_rows(found)))
    return take({**found, ID: ids, "card": cards}, np.arange(rows))


def messages(part: Columns, scored: Scored, by: Live, mine: Any) -> Iterator[tuple[bytes, bytes] | None]:
    """In the place of those of stream/score.py."""
    wanted = np.ones(n_rows(part), np.bool_) if mine is None else mine
    ids: Any = part[ID]
    for name, value, decides in zip(ids.strings(), scored.score.tolist(), wanted.tolist(), strict=True):
        yield (name.encode(), b"%d %r" % (by.version, value)) if decides else None


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was committed in the middle of a pass."""
    out: list[Any] = []

    async def commit(commits: list[Any]) -> None:
        out.extend(c.roster for c in commits)

    monkeypatch.setattr(head, "commit", commit)
    return out


def team(canary: Any = None, **others: Any) -> tuple[Team, Loaded]:
    """The champion is the trained bundle, everybody else as given."""
    lives = [live(1, Scorer(plan(), bundle()))]
    pins = []
    for version, (alias, scorer) in enumerate([(CANARY, canary), *others.items()], 2):
        if scorer is not None:
            lives.append(live(version, scorer))
            pins.append(Pin(alias, version, f"hash {version}", version, SHARE if alias == CANARY else None))
    swap = Loaded(*lives)
    mine = Roster(
        Pin(CHAMPION, 1, "hash 1", 1), next((p for p in pins if p.alias == CANARY), None),
        tuple(p for p in pins if p.alias != CANARY), 9,
    )  # fmt: skip
    fake: Any = swap
    one: Any = SimpleNamespace(position=7, roster={})
    return Team(plan(), fake, [one], mine), swap


def rules() -> Scorer:
    return Scorer(plan(), rules_only())


async def decided(of: Team, part: Columns) -> tuple[Decided, list[Any], list[Opinion]]:
    found, sent = await of.decide(part, messages)
    return found, sent, await of.opinions(part)


async def test_shadows_change_no_decision() -> None:
    part = events()
    alone, sent_alone, nothing = await decided(team()[0], part)
    beside, sent, opinions = await decided(team(shadow=rules(), challenger=Scorer(plan(), bundle()))[0], part)
    assert nothing == []
    assert sent == sent_alone
    assert np.array_equal(alone.score, beside.score)
    assert [o.alias for o in opinions] == ["shadow", "challenger"]
    assert np.array_equal(opinions[1].score, alone.score)
    assert (opinions[0].score == 0).all()


@pytest.mark.parametrize("rows", [1, 64, 512])
async def test_what_a_shadow_says_is_what_it_would_say_alone(rows: int) -> None:
    """However large the pass is."""
    part = events(rows)
    _, _, [opinion] = await decided(team(shadow=Scorer(plan(), bundle()))[0], part)
    alone = Scorer(plan(), bundle()).score(events(rows))
    for name in ("score", "band", "action"):
        assert np.array_equal(getattr(opinion, name), getattr(alone, name))


async def test_the_canary_decides_for_its_share_and_the_champion_is_heard_there() -> None:
    part = events()
    found, sent, [opinion] = await decided(team(canary=rules())[0], part)
    cards: Any = part["card"]
    mine = in_share(cards, SHARE, salt(plan().name, "hash 2"))
    assert 0 < mine.sum() < ROWS
    champion = Scorer(plan(), bundle()).score(part)
    assert found.bundle.tolist() == np.where(mine, 2, 1).tolist()
    assert np.array_equal(found.score, np.where(mine, 0.0, champion.score))
    assert np.array_equal(found.action[~mine], champion.action[~mine])
    assert [m[1][:2] for m in sent] == [b"2 " if canary else b"1 " for canary in mine]
    assert (opinion.alias, opinion.version) == (CHAMPION, 1)
    assert np.array_equal(opinion.score, champion.score[mine])
    for name, output in champion.outputs.items():  # the canary is rules alone
        assert np.array_equal(found.full(name, np.arange(ROWS), ROWS), np.where(mine, np.nan, output), equal_nan=True)


async def test_a_broken_shadow_is_pinned_out_and_the_others_are_heard(pinned: list[Any]) -> None:
    part = events()
    of, swap = team(broken=Broken(), shadow=rules())
    _, sent_alone, _ = await decided(team()[0], part)
    _, sent, opinions = await decided(of, part)
    assert sent == sent_alone
    assert [o.alias for o in opinions] == ["shadow"]
    assert swap.left_out == ["broken"]
    [roster] = pinned
    assert [p["alias"] for p in roster["others"]] == ["shadow"]
    assert (roster["from"], roster["number"]) == (7, 9)


async def test_a_broken_canary_lets_the_champion_decide(pinned: list[Any]) -> None:
    part = events()
    of, swap = team(canary=Broken(), shadow=rules())
    found, sent, opinions = await decided(of, part)
    assert (found.bundle == 1).all()
    assert None not in sent
    assert swap.left_out == [CANARY]
    assert CANARY not in pinned[0]
    assert [o.alias for o in opinions] == ["shadow"]


# ---- messages --------------------------------------------------------------------------------------------------------


async def test_where_the_canary_has_no_score_the_champion_decides() -> None:
    class Silent:
        """Has nothing to say of every other card."""

        def score(self, part: Columns, *_: Any) -> Scored:
            scored = rules().score(part)
            cards: Any = part["card"]
            silent = [int(card[1:]) % 2 == 0 for card in cards.strings()]
            return replace(scored, score=np.where(silent, np.nan, scored.score))

    part = events()
    one, _ = team(canary=rules())
    whole, _, _ = await decided(one, part)
    of, _ = team(canary=Silent())
    found, sent, [opinion] = await decided(of, part)
    assert 0 < (found.bundle == 2).sum() < (whole.bundle == 2).sum()
    assert not np.isnan(found.score).any()
    assert [int(message[1].split()[0]) for message in sent] == found.bundle.tolist()
    assert opinion.rows is not None
    assert np.array_equal(opinion.rows, np.flatnonzero(found.bundle == 2))


def test_messages_say_who_said_what() -> None:
    """Against the same written with `json`, one event at a time."""
    part = events(5)
    part[ID] = Text.of_strings(["a", 'b"\\', "ü,{}", "d", "e"])
    scored = Scorer(plan(), bundle()).score(part)
    scored.score[2] = np.nan
    found = Decided(live(1, None), scored)
    other = rules().score(part)
    other.score[1] = np.nan
    opinions = [
        Opinion.of("shadow:x", live(7, None), other),
        Opinion.of(CHAMPION, live(1, None), scored, np.array([0, 2])),
    ]
    at_ms: Any = part[TIME]
    for i, message in enumerate(opinion_messages(part, found, opinions)):
        if i == 2:
            assert message is None, "nothing was decided"
            continue
        key, value = message or (b"", b"")
        said = {"alias": "shadow:x", "bundle": 7, "score": None if i == 1 else 0.0,
                "band": other.band_names[other.band[i]], "action": ACTIONS[other.action[i]]}  # fmt: skip
        assert key.decode() == part[ID].strings()[i]  # type: ignore[union-attr]
        assert json.loads(value)["others"][0] == said
        assert json.loads(value) | {"others": []} == {
            "event_id": key.decode(), "occurred_at": int(at_ms[i]), "others": [],
            "decided": {"bundle": 1, "score": scored.score[i], "action": ACTIONS[scored.action[i]]},
        }  # fmt: skip
        assert [o["alias"] for o in json.loads(value)["others"]] == ["shadow:x", *([CHAMPION] if i == 0 else [])]


def test_there_is_no_message_where_nobody_spoke() -> None:
    part = events(3)
    scored = Scorer(plan(), bundle()).score(part)
    found = list(opinion_messages(part, Decided(live(1, None), scored), []))
    assert found == [None] * 3


# ---- what several bundles share --------------------------------------------------------------------------------------


def test_equal_layers_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    part, shared = events(), Shared()
    first, second = Scorer(plan(), bundle()), Scorer(plan(), bundle())
    scored = first.score(part, shared)
    for layer in second.layers:
        monkeypatch.setattr(layer, "of", lambda *_: 1 / 0)
    again = second.score(part, shared)
    for name, output in scored.outputs.items():
        assert again.outputs[name] is output
    with pytest.raises(ZeroDivisionError):
        second.score(part, Shared())


def test_equal_rules_are_tried_once_unless_they_ask_for_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    part, shared = events(), Shared()
    scored = rules().score(part, shared)
    second = rules()
    monkeypatch.setattr(second.decider, "conditions", [broken_condition(c.names) for c in second.decider.conditions])
    assert np.array_equal(second.score(part, shared).hits, scored.hits)
    second.decider.conditions[0] = broken_condition(("score",))
    with pytest.raises(ZeroDivisionError):
        second.score(part, shared)


def broken_condition(names: Any) -> Any:
    class Broken:
        def __init__(self) -> None:
            self.names = names

        def __call__(self, *_: Any) -> Any:
            return 1 / 0

    return Broken()


def test_a_layer_with_another_dictionary_or_lower_layer_is_another_one() -> None:
    made = bundle()
    codes = {**made.manifest, "dictionaries": {"note": ["rent", "gift", "other"]}}
    same, other = Scorer(plan(), made), Scorer(plan(), replace(made, manifest=codes))
    keys = {layer.name: layer.key for layer in same.layers}
    changed = {layer.name for layer in other.layers if layer.key != keys[layer.name]}
    assert changed == {"card_model", "final"}, "the one that reads notes, and the one above it"
