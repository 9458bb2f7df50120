"""What the process measures about itself, in the form that Prometheus reads. Base units, no text of users.

A model that is not on the start-up list is counted as ``other``, so that nobody can make series.
"""

import importlib.metadata
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from saa_core.types import Prediction

OTHER = "other"
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    120.0,
)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.5)
MISSED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
OP = ("model", "op")
SIDE = ("model", "op", "side")
FALLBACKS = ("exception", "nan", "timeout", "breaker", "damaged", "guard", "margin", "unprofitable")
"""Why an answer is dense: the first five are failures of the sparse path or follow from them; the guard and the
margin of a label asked for it; and "unprofitable" is what this machine gains nothing on."""


class Metrics:
    """All series, in a registry of their own.

    Args:
        models: names of the start-up list.
    """

    def __init__(self, models: Iterable[str], device: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._models = frozenset(models)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        self.running = gauge("num_requests_running", "Requests that the model works on.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for the model.")
        self.waiting_tokens = gauge(
            "num_tokens_waiting", "Prompt tokens of requests in the process."
        )
        self.ready = gauge("ready", "1 while new requests are taken.")
        self.queue = histogram("request_queue_time_seconds", "From arrival to the first step.", OP)
        self.prefill = histogram(
            "request_prefill_time_seconds", "Reading of the prompt, or the batch.", SIDE
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", SIDE
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between two tokens of a stream.", SIDE
        )
        self.latency = histogram(
            "e2e_request_latency_seconds", "From arrival to the whole answer.", SIDE
        )
        self.prompt_tokens = counter("prompt_tokens", "Tokens that were read.", OP)
        self.new_tokens = counter("generation_tokens", "Tokens that were written.", OP)
        self.batch = histogram("batch_size", "Texts that were computed together.", OP, SIZES)
        self.rejected = counter("requests_rejected", "Requests that were not taken.", ("reason",))
        self.success = counter(
            "request_success", "Requests that were answered.", (*SIDE, "finished_reason")
        )
        self.texts = counter("texts_answered", "Texts of requests that were answered.", OP)
        self.cancelled = counter("requests_cancelled", "Requests whose client went away.", OP)
        self.errors = counter("request_errors", "Requests that got an error.", (*OP, "reason"))
        self.density = histogram(
            "density_ratio", "Pairs computed / allowed, of recorded runs.", OP, SHARES
        )
        self.predicted = histogram(
            "predicted_mass_ratio",
            "Mass that the gates expect to keep, of recorded runs.",
            OP,
            SHARES,
        )
        self.token_share = histogram("token_share_ratio", "Token work done / dense.", OP, SHARES)
        self.flops_share = histogram("flops_share_ratio", "Operations done / dense.", OP, SHARES)
        self.missed = histogram(
            "missed_mass_ratio", "Mean missed mass that a guard measured.", (*OP, "stage"), MISSED
        )
        self.missed_bound = histogram(
            "missed_mass_bound_ratio", "Upper bound of the missed mass by a guard.", OP, MISSED
        )
        self.guard_events = counter(
            "guard_events", "What guards suspected and did.", ("model", "suspected", "done")
        )
        self.fallbacks = counter(
            "fallbacks",
            "Answers computed densely although a policy was asked for.",
            (*OP, "reason"),
        )
        self.dense_answers = counter("dense_answers", "Answers that were computed densely.", OP)
        self.breaker = gauge("breaker_open", "1 while a breaker of the model is open.", ("model",))
        self.damaged = gauge(
            "gates_damaged", "1 where the gates of the model are not used.", ("model",)
        )
        self.distance = histogram(
            "input_distance_ratio", "Distance from the training texts / its limit, of far texts.", OP,
            (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
        )  # fmt: skip
        self.far = counter("inputs_far", "Texts unlike those that the gates were trained on.", OP)
        self.kept = gauge("kept_runs", "Runs in the store of the server.")
        self.expired = counter(
            "kept_runs_expired", "Kept runs that were deleted for their age or number."
        )
        self.abandoned = counter(
            "threads_abandoned", "Model threads that hung and were left behind."
        )
        self._build = gauge(
            "build_info",
            "What is served; always 1.",
            ("version", "model", "gate", "policy", "device"),
        )
        self._device = device
        for reason in ("requests", "tokens", "draining", "memory", "body", "auth"):
            self.rejected.labels(reason)
        for model in sorted(self._models):
            self.breaker.labels(model).set(0)
            self.damaged.labels(model).set(0)

    def name(self, model: str) -> str:
        """The label of a model that a request names."""
        return model if model in self._models else OTHER

    def build(self, model: str, gate: str, policy: str) -> None:
        """Says what is served under a name."""
        version = importlib.metadata.version("saa-core")
        self._build.labels(version, model, gate, policy, self._device).set(1)

    def predicted_label(self, model: str, op: str, found: Prediction) -> None:
        """Counts one labelled text."""
        self.token_share.labels(model, op).observe(found.token_share)
        self.flops_share.labels(model, op).observe(found.flops_share)

    def fell_back(self, model: str, op: str, reason: str, answers: int = 1) -> None:
        """Counts answers that are dense although a policy was asked for."""
        self.fallbacks.labels(model, op, reason).inc(answers)
        self.dense_answers.labels(model, op).inc(answers)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"saa_{name}", about, labels, registry=self.registry)

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"saa_{name}", about, labels, registry=self.registry)

    def _histogram(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...] = (),
        buckets: tuple[float, ...] = SECONDS,
    ) -> Histogram:
        return Histogram(f"saa_{name}", about, labels, registry=self.registry, buckets=buckets)
