"""What the HTTP API measures of itself and of its Views, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streamkit.errors import StreamkitError
from streamkit.serving.merge import Serving
from streamkit.topology import Topology

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Requests and their seconds by route, and each View's lag as it is when it is asked for."""

    def __init__(self, topology: Topology, serving: Serving) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "streamkit_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "streamkit_http_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._registry.register(_Views(topology, serving))

    def count(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Views(Collector):
    def __init__(self, topology: Topology, serving: Serving) -> None:
        self._topology, self._serving = topology, serving

    def collect(self) -> Iterator[GaugeMetricFamily]:
        lag = GaugeMetricFamily("streamkit_view_lag_records", "Records that are in no Answer yet.", labels=["view"])
        exact = GaugeMetricFamily("streamkit_view_answers", "1 where the View can be answered.", labels=["view"])
        differences = GaugeMetricFamily(
            "streamkit_proof_differences",
            "Slots in which the BatchView in force differed from the speed layer: 0 where all is well.",
            labels=["view"],
        )
        for name in self._topology.views:
            try:
                view = self._serving.find(name)
                batch = self._serving.seam(view).batch
                if batch is not None and batch.proof is not None:
                    differences.add_metric([name], batch.proof.differences)
                exact.add_metric([name], 1)
            except StreamkitError:  # why is in /health
                exact.add_metric([name], 0)
                continue
            with suppress(StreamkitError):  # no lag is better than a wrong one
                lag.add_metric([name], self._serving.lag(view))
        yield lag
        yield exact
        yield differences


class Measured:
    """ASGI middleware that counts what the app inside answers, by route: paths are without end, routes are few."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.count(route, status, time.perf_counter() - began)
