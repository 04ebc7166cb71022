"""Publishes bundles while events flow: one after another, two at once, and killed half-way.

What was ever champion is looked at after each publication, because Redis may lose its last second, history included.
As a program (`python -m chaos.publisher FILE`) it says `ready`, waits for a line, and publishes the bundle in the file.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from batch.replay import replay
from chaos.world import EVENT, ROW, Message, World
from riskflow.bundle import Bundle, sign, verify
from riskflow.columns import Columns, concat, take
from riskflow.errors import RiskflowError
from riskflow.evaluate import KIND
from riskflow.events import Decoder
from riskflow.keys import load_private_key, load_public_keys, make_keys
from riskflow.moves import CANARY, CHAMPION, RETIRED, SHADOW, check_move
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Overtaken, Registry
from riskflow.settings import PROJECT, settings

KINDS = 4  # different bundles, published again and again under new versions
KILLED_WITHIN_S = 0.02
CANARY_SHARE = 0.2


class Publisher:
    """The registry of a run, and every bundle that ever decided."""

    def __init__(self, plan: Plan, store: Any, folder: Path, seed: int) -> None:
        self.plan = plan
        self.registry = Registry(store, Names(plan.name, prefix=settings().topic_prefix))
        self.active: dict[int, set[bytes]] = {}  # version -> bundles; two, if Redis lost one and its number came again
        self.swaps = 0
        self.problems: list[str] = []
        self._random = random.Random(seed)
        make_keys(settings().keys_folder)
        self._files = [folder / f"bundle-{i}" for i in range(KINDS)]
        golden = _golden_rows(plan)
        for i, file in enumerate(self._files):
            file.write_bytes(self._signed(_small_bundle(plan, seed + i, golden)))
        self._turn = cycle(self._files)

    def publish(self, why: str = "a swap") -> int:
        """A new champion; its version."""
        bundle = Bundle.from_bytes(next(self._turn).read_bytes())
        stored = self.registry.publish(bundle, load_private_key(settings().keys_folder), who="chaos", why=why)
        if self.swaps:
            self._move_others(stored.version)
        self.look()
        self.swaps += 1
        return stored.version

    def _move_others(self, champion: int) -> None:
        """A canary and a shadow come with one swap, and one of them goes with the next."""
        by: dict[str, Any] = {"private_key": load_private_key(settings().keys_folder), "who": "chaos", "why": "beside"}
        older = self._random.choice([v for v in self.registry.versions() if v != champion] or [champion])
        if self.swaps % 2:
            self.registry.move(CANARY, older, share=CANARY_SHARE, **by)
            self.registry.move(SHADOW, older, **by)
        else:
            standing = [alias for alias in self.registry.aliases() if alias != CHAMPION]
            self.registry.retire(self._random.choice(standing), **by) if standing else None

    def publish_two_at_once(self) -> None:
        """Two publishers in the same moment: both are stored, and the newer one is champion."""
        before = len(self.registry.versions())
        both = [self._other_process(), self._other_process()]
        for each in both:
            _go(each)
        codes = [each.wait(60) for each in both]
        self.look()
        if any(codes) or len(self.registry.versions()) != before + 2:
            self.problems.append(f"two publishers at once ended with {codes}")
        self.swaps += 1

    def publish_and_kill(self) -> None:
        """A publisher that is killed somewhere between the first byte and the last."""
        child = self._other_process()
        _go(child)
        time.sleep(self._random.uniform(0, KILLED_WITHIN_S))
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        self.look()

    def look(self) -> None:
        """Checks the registry, and remembers what decides or did: champions and canaries."""
        keys = load_public_keys(settings().keys_folder)
        last = 0
        try:
            for move in self.registry.history():
                check_move(move, keys, self.registry.names, move.alias, last)
                last = move.number
                if move.alias not in (CHAMPION, CANARY) or move.version == RETIRED:
                    continue
                raw = self.registry.raw(move.version)
                if verify(raw, keys, plan=self.plan).content_hash == move.bundle_hash:
                    self.active.setdefault(move.version, set()).add(raw)
                else:
                    self.problems.append(f"move {move.number} names another bundle {move.version}")
        except RiskflowError as error:
            self.problems.append(f"registry: {error}")

    def _signed(self, bundle: Bundle) -> bytes:
        return sign(bundle.with_version(1), load_private_key(settings().keys_folder)).to_bytes()

    def _other_process(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "chaos.publisher", self.plan.name, str(next(self._turn))],
            cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("a publisher did not start")
        return child


def _go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def _small_bundle(plan: Plan, seed: int, golden: Columns) -> Bundle:
    """Quick models on made-up numbers: what they say does not matter, that they say the same again does."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    from batch.bundling import build_bundle
    from riskflow.policy import Policy

    rng = np.random.default_rng(seed)
    models = {}
    for name in plan.models:
        x = rng.gamma(1.0, 50.0, (600, len(plan.model_inputs(name))))
        y = (x[:, 0] + rng.normal(0, 20, 600) > 80).astype(int)
        models[name] = HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=8, random_state=seed).fit(x, y)
    numbers = Policy.load(plan.usecase.folder / "policy.yaml").start() | {"review": 0.9, "decline": 0.99}
    return build_bundle(plan, models=models, policy_numbers=numbers, golden_columns=golden)


def _golden_rows(plan: Plan) -> Columns:
    """Scored rows with every feature, of a world like the one that will be sent."""
    messages = islice(World.of(plan, 2_000, 1, 50, False).messages(), 2_000)
    columns = _decoded(plan, [m for m in messages if m.fate in (EVENT, ROW)])
    rows = replay(plan, columns).columns
    return take(rows, np.flatnonzero(np.asarray(rows[KIND]) == 0)[-64:])


def _decoded(plan: Plan, messages: list[Message]) -> Columns:
    """The rows of these messages, feed after feed."""
    now_ms = int(time.time() * 1000)
    tables = []
    for feed in plan.usecase.feeds:
        decoder = Decoder(plan, feed)
        rows = [decoder.message(m.value, now_ms) for m in messages if m.feed == feed.name]
        tables += [decoder.columns(rows)] if rows else []
    return concat(tables)


def main(usecase: str, file: str) -> None:
    import redis

    bundle = Bundle.from_bytes(Path(file).read_bytes())
    conf = settings()
    registry = Registry(redis.Redis.from_url(conf.redis_url), Names(usecase, prefix=conf.topic_prefix))
    key = load_private_key(conf.keys_folder)
    registry.versions()  # connected
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        registry.publish(bundle, key, who="chaos", why="published by another process")
    except Overtaken:
        return  # a newer one came in between: it is stored, and that is right


if __name__ == "__main__":
    main(*sys.argv[1:])
