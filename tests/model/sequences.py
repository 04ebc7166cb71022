"""How sequences of steps are made up: each of payments, work on them, and a few kinds of what can go wrong."""

import itertools
import random

from hypothesis import strategies as st

USUAL = ["payments", "payments", "deliver", "deliver", "deliver", "reports"]
MENDED = ["move", "go_on", "kill", "swap", "lose", "no_answer", "redis_restarts", "broker_refuses", "skip", "repeat"]
FATAL = ["truncate", "empty", "retention"]
# A few kinds that come often find more than all of them that come seldom.
MIXES = [[*USUAL, *some] for some in itertools.combinations(MENDED, 4)]
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
