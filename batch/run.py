"""A run of a use case: its plan and pipeline, the settings, and a folder of its own for what its steps hand over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.given import Given, given_for
from batch.pipeline import Pipeline
from riskflow.connect import connect
from riskflow.errors import NotReady
from riskflow.keys import load_private_key
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.settings import Settings

Summary = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One retraining of a use case. `name` becomes a folder. layer: the only one that is trained, None for all."""

    plan: Plan
    pipeline: Pipeline
    conf: Settings
    name: str
    layer: str | None = None

    @classmethod
    def of(cls, plan: Plan, conf: Settings, name: str) -> Run:
        """A run with the plan's own pipeline.yaml; any character of the name that a path could mind is replaced."""
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:120]
        return cls(plan, Pipeline.of(plan), conf, safe or "run")

    @property
    def folder(self) -> Path:
        return self.conf.home / "runs" / self.plan.name / self.name

    @property
    def candidates(self) -> list[str]:
        """Who races; where one layer is trained alone, all that it knows."""
        raced = self.pipeline.candidates(self.plan)
        if self.layer not in self.plan.models:
            return raced
        known = self.plan.usecase.models[str(self.layer)].candidates
        return [name for name in raced if name in known] or list(known)

    @property
    def names(self) -> Names:
        return Names(self.plan.name, prefix=self.conf.topic_prefix)

    def given(self, history: Path | None) -> Given:
        """What the training is given beside its rows; history: where a search keeps its own, None for in memory."""
        return given_for(self.plan, self.pipeline, self.registry, self.conf.keys_folder, history, self.layer)

    def registry(self, usecase: str | None = None) -> Registry:
        """The registry of this use case or of another; raises NotReady when Redis does not answer."""
        import redis

        client = connect(self.conf.redis_url)
        try:
            client.ping()
        except redis.RedisError:
            where = self.conf.redis_url.rpartition("@")[2]  # without a password
            raise NotReady(f"Redis at {where} does not answer. Run `riskflow up`.") from None
        return Registry(client, Names(usecase or self.plan.name, prefix=self.conf.topic_prefix))

    def check_can_publish(self) -> None:
        """Raises NotReady where Redis or the signing key is missing: better before training than after."""
        self.registry()
        load_private_key(self.conf.keys_folder)
