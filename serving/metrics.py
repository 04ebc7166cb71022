"""What serving counts, in Prometheus' words. No ids as labels. Each app has a registry of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """All of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.scores_read = self._counter("risk_serving_scores_read", "Scores taken from the topic", "use_case")
        self.unreadable = self._counter("risk_serving_scores_unreadable", "Records that are not scores", "use_case")
        self.requests = self._counter("risk_serving_requests", "Requests answered", "route", "method", "status")
        self.request_s = Histogram(
            "risk_serving_request_seconds", "Time to answer", ["route"], buckets=BUCKETS_S, registry=self.registry
        )
        self._behind = Gauge(
            "risk_serving_behind_seconds", "How long ago everything on the scores topic had been read; NaN: not known",
            ["use_case"], registry=self.registry,
        )  # fmt: skip

    def behind_of(self, use_case: str, behind_s: Callable[[], float | None]) -> None:
        """Names the function that is asked at each scrape."""

        def value() -> float:
            found = behind_s()
            return math.nan if found is None else found

        self._behind.labels(use_case).set_function(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
