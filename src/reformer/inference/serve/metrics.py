"""What a server did, as Prometheus reads it."""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from reformer.inference.serve.engine import Engine

COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "known_tokens": "Tokens of prompts that were read before.",
    "new_tokens": "Tokens written.",
    "steps": "Steps, each for all answers at a time.",
    "answered": "Prompts whose answers came to their end.",
    "cancelled": "Prompts that nobody waited for any more.",
    "failures": "Prompts that could not be answered.",
}


def exposition(engine: Engine, requests: Mapping[int, int]) -> str:
    """All numbers."""
    registry = CollectorRegistry()
    registry.register(_Numbers(engine, Counter(requests)))
    return generate_latest(registry).decode()


class _Numbers:
    def __init__(self, engine: Engine, requests: Counter[int]) -> None:
        self.engine, self.requests = engine, requests

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        engine = self.engine
        by_status = CounterMetricFamily("reformer_requests", "Requests by status.", labels=["status"])
        for status, count in sorted(self.requests.items()):
            by_status.add_metric([str(status)], count)
        yield by_status
        for name, what in COUNTERS.items():
            yield CounterMetricFamily(f"reformer_{name}", what, value=getattr(engine.counts, name))
        gauges = {
            "answers": ("Answers that are being written.", len(engine.answers)),
            "reading": ("Prompts that are being read.", len(engine.reading)),
            "waiting": ("Prompts that wait.", len(engine.waiting)),
            "prefixes": ("Prompts whose caches are kept.", len(engine.prefixes.kept)),
            "prefix_bytes": ("Memory of these, bytes.", engine.prefixes.bytes),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"reformer_{name}", what, value=value)
