"""Count what the service does, for monitoring: numbers and times, nothing about a slice or a person."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from braintumor.errors import ReferralReason, Refusal
from braintumor.predictor import Prediction

PATHS: Final = frozenset(
    {
        "/",
        "/docs",
        "/openapi.json",
        "/v1/models",
        "/v1/predictions",
        "/v1/dicom-results",
        "/healthz",
        "/readyz",
        "/metrics",
    }
)


class ServiceMetrics:
    """The metrics of one service, in a registry of its own: tests and programs may run several in a process."""

    media_type: Final = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._answers = Counter(
            "braintumor_answers", "Answers by path and status", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "braintumor_answer_seconds", "Time to the head of an answer", ["path"], registry=registry
        )
        self._decisions = Counter(
            "braintumor_decisions", "Decisions of models on slices", ["decision"], registry=registry
        )
        self._reasons = Counter("braintumor_referrals", "Reasons for referring slices", ["reason"], registry=registry)
        self._refused = Counter("braintumor_refused_files", "Files that could not be used", ["code"], registry=registry)
        self._waiting = Gauge("braintumor_waiting_files", "Files waiting in the queue", registry=registry)
        for reason in ReferralReason:  # so that monitoring sees those that have not occurred, too
            self._reasons.labels(reason)
        for code in Refusal:
            self._refused.labels(code)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a response by path, status and seconds."""
        # Unknown paths count as one: every label takes memory for ever, and clients can invent paths.
        path = path if path in PATHS else "/static" if path.startswith("/static/") else "other"
        self._answers.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def decided(self, prediction: Prediction) -> None:
        """Count a decision, and the reasons if the slice is referred."""
        self._decisions.labels(prediction.decision).inc()
        for code in {reason.code for reason in prediction.reasons}:
            self._reasons.labels(code).inc()

    def refused(self, codes: Iterable[str]) -> None:
        """Count files that could not be used, by their `Refusal`."""
        for code in codes:
            self._refused.labels(code).inc()

    def text(self, waiting: int) -> bytes:
        """Return all numbers in the format of Prometheus, with how many files wait at the moment."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
