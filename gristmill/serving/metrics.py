"""Counters and latency histograms in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    """Cumulative buckets of seconds."""

    def __init__(self) -> None:
        self.counts, self.total, self.number = [0] * len(BUCKETS), 0.0, 0

    def observe(self, seconds: float) -> None:
        self.total += seconds
        self.number += 1
        for i, bound in enumerate(BUCKETS):
            if seconds <= bound:
                self.counts[i] += 1

    def lines(self, name: str) -> list[str]:
        buckets = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(BUCKETS, self.counts, strict=True)]
        return [*buckets, f'{name}_bucket{{le="+Inf"}} {self.number}', f"{name}_sum {self.total:.6f}",
                f"{name}_count {self.number}"]


class Metrics:
    """What a server counts; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.prompt_tokens = self.generated_tokens = self.engine_failures = 0
        self.finished: Counter[str] = Counter()
        self.first_token, self.whole = Histogram(), Histogram()

    def answer_began(self, seconds: float) -> None:
        with self._lock:
            self.first_token.observe(seconds)

    def answer_ended(self, reason: str, prompt_tokens: int, tokens: int, seconds: float) -> None:
        with self._lock:
            self.finished[reason] += 1
            self.prompt_tokens += prompt_tokens
            self.generated_tokens += tokens
            self.whole.observe(seconds)

    def engine_failed(self) -> None:
        with self._lock:
            self.engine_failures += 1

    def render(self, running: int, waiting: int, draining: bool) -> str:
        """Prometheus' text exposition format, version 0.0.4."""
        with self._lock:
            lines: list[str] = []

            def family(name: str, kind: str, text: str, rows: list[str]) -> None:
                lines.extend([f"# HELP gristmill_{name} {text}", f"# TYPE gristmill_{name} {kind}", *rows])

            def one(name: str, kind: str, text: str, value: float) -> None:
                family(name, kind, text, [f"gristmill_{name} {value}"])

            one("requests_running", "gauge", "Answers in the engine now.", running)
            one("requests_waiting", "gauge", "Answers waiting for a slot.", waiting)
            one("draining", "gauge", "1 while the server shuts down.", int(draining))
            one("prompt_tokens_total", "counter", "Prompt tokens of finished answers.", self.prompt_tokens)
            one("generated_tokens_total", "counter", "New tokens of finished answers.", self.generated_tokens)
            one("engine_failures_total", "counter", "Times the engine failed and was made anew.", self.engine_failures)
            family("answers_total", "counter", "Finished answers by reason.",
                   [f'gristmill_answers_total{{reason="{reason}"}} {n}' for reason, n in sorted(self.finished.items())])
            family("first_token_seconds", "histogram", "From submission to the first token.",
                   self.first_token.lines("gristmill_first_token_seconds"))
            family("answer_seconds", "histogram", "From submission to the end of an answer.",
                   self.whole.lines("gristmill_answer_seconds"))
            return "\n".join(lines) + "\n"
