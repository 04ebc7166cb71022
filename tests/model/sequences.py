"""How sequences of steps are made up: each of payments, work on them, and a few kinds of what can go wrong."""

import itertools
import random

from hypothesis import strategies as st

from tests.model.steps import GATES

USUAL = ["payments", "payments", "deliver", "deliver", "deliver", "reports"]
MENDED = ["move", "go_on", "kill", "swap", "lose", "no_answer", "redis_restarts", "broker_refuses", "skip", "repeat",
          "no_offset"]  # fmt: skip
DEAD = ["days", "payments", "deliver", "sweep"]  # one without the others shows nothing
FATAL = ["truncate", "empty", "retention"]
# A few kinds that come often find more than all of them that come seldom.
MIXES = [[*USUAL, *some] for some in itertools.combinations(MENDED, 4)]
MIXES += [[*USUAL, *DEAD, *DEAD, *some] for some in itertools.combinations(MENDED, 2)]
MIXES += [[*USUAL, *some, fatal] for some in itertools.combinations(MENDED[:5], 3) for fatal in FATAL]
LONGEST = 18


def _steps(names: list[str]) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 15), st.integers(0, 63)), max_size=LONGEST)


SEQUENCES = st.sampled_from([_steps(mix) for mix in MIXES]).flatmap(lambda steps: steps)


def seeded(seed: int) -> list[tuple[str, int, int]]:
    """The same, without hypothesis: quicker where nothing has to be made shorter."""
    made = random.Random(seed)
    mix = made.choice(MIXES)
    return [(made.choice(mix), made.randrange(16), made.randrange(64)) for _ in range(made.randrange(LONGEST))]


# For rules that few sequences of chance show. The last number of `deliver` is where its worker is stopped.


def _until(gate: str) -> int:
    return 2 * len(GATES) + GATES.index(gate)


_ALL = ("deliver", 4, 3)
_SOME = ("payments", 3, 3)
SHOWN_BY: dict[str, list[tuple[str, int, int]]] = {
    # A worker that was cut off reads on, at the position of its successor, who has another bundle.
    "load_without_epoch": [_SOME, _ALL, ("swap", 0, 0), ("move", 0, 48), _SOME, _ALL],
    # Stopped before it reads the records; its successor writes others.
    "load_in_two_steps": [_SOME, ("deliver", 4, _until("after load shop")), ("move", 0, 48), ("deliver", 9, 3)],
    # A partition goes to another worker, and comes back with other records.
    "records_cached": [
        _SOME, _ALL, ("move", 0, 16), _SOME, _ALL, ("deliver", 9, 3), ("move", 2, 16), _SOME, _ALL,
    ],
    # Another roster is published after the pin, and seen before anything is scored.
    "others_not_pinned": [_SOME, ("deliver", 4, _until("after load shop")), ("swap", 0, 1), ("go_on", 0, 0)],
    "canary_not_pinned": [
        ("payments", 3, 4), ("deliver", 4, _until("after load shop")), ("swap", 0, 1), ("go_on", 0, 0),
    ],
    # Redis loses the pin alone; the worker is killed much later, between sending and committing.
    "roster_said_once": [
        _SOME, _ALL, ("swap", 0, 1), _SOME, ("deliver", 4, _until("after commit shop")), ("lose", 1, 4),
        ("go_on", 0, 0), _SOME, ("deliver", 4, _until("commit shop")), ("kill", 0, 0),
    ],
    # Somebody is not seen on the newest day, and a sweep passes by.
    "living_swept": [_SOME, _ALL, ("days", 0, 9), ("payments", 0, 5), _ALL, ("sweep", 0, 0)],
    # A worker goes on, and claims again, as if its partition were new.
    "watermark_not_committed": [_SOME, _ALL, ("days", 1, 0), ("payments", 0, 5), _ALL, ("kill", 0, 0), _SOME, _ALL],
}  # fmt: skip
