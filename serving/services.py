"""What a running server holds, made when it starts and given back when it stops: nothing exists at import."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskflow.connect import connect
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.settings import Settings
from riskflow.usecase import usecase_names
from serving.metrics import Metrics
from serving.models import ModelsView
from serving.progress import Progress
from serving.reader import Reader
from serving.store import Store, check_free

REDIS_S = 2.0
WEEK_S = 7 * 86_400.0


@dataclass(frozen=True)
class Served:
    """One use case."""

    store: Store
    progress: Progress
    reader: Reader
    models: ModelsView


def store_path(conf: Settings, usecase: str) -> Path:
    return conf.home / "serving" / f"{conf.topic_prefix}{usecase}.sqlite"


def check_alone(conf: Settings) -> None:
    """Raises NotReady while another process serves: uvicorn would print a traceback around the sentence."""
    for usecase in usecase_names(conf.usecases):
        check_free(store_path(conf, usecase))


class Services:
    """All use cases of the configured folder, and the Redis client."""

    def __init__(self, conf: Settings, metrics: Metrics, retention_s: float = WEEK_S, redis: Any = None) -> None:
        self.conf, self.metrics, self.retention_s = conf, metrics, retention_s
        self.redis: Any = redis or connect(
            conf.redis_url, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S, health_check_interval=30
        )
        self.served: dict[str, Served] = {}
        self._open = ExitStack()
        self._open.callback(self.redis.close)

    def __enter__(self) -> Services:
        with self._open:  # closes what was opened should the next one fail
            for usecase in usecase_names(self.conf.usecases):
                self.served[usecase] = self._serve(usecase)
            self._open = self._open.pop_all()
        for served in self.served.values():
            served.reader.start()
            self._open.callback(served.reader.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _serve(self, usecase: str) -> Served:
        names = Names(usecase, prefix=self.conf.topic_prefix)
        store = Store(store_path(self.conf, usecase))
        self._open.callback(store.close)
        progress = Progress(usecase, self.metrics)
        reader = Reader(self.conf.kafka, names.scores, store, self.retention_s, progress)
        return Served(store, progress, reader, ModelsView(Registry(self.redis, names)))
