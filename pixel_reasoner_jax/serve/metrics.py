"""What the server counts of itself, as text that Prometheus reads."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator

from pixel_reasoner_jax.rollout.live import Load

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
PREFIX = "pixel_reasoner_"


class Histogram:
    """Counts of seconds, in buckets up to each of `BOUNDS`."""

    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        place = next((number for number, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        self.counts[place] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        yield f"# TYPE {PREFIX}{name} histogram"
        total = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{PREFIX}{name}_bucket{{le="{bound}"}} {total}'
        yield f"{PREFIX}{name}_sum {self.sum:.6f}"
        yield f"{PREFIX}{name}_count {total}"


class ServerMetrics:
    """Counters of a server; many threads may use it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: collections.Counter[int | str] = collections.Counter()
        self._tokens: collections.Counter[str] = collections.Counter()
        self._first, self._whole = Histogram(), Histogram()

    def count_request(self, status: int | str) -> None:
        """Counts a request that has ended, by the status of HTTP, or "hung_up"."""
        with self._lock:
            self._requests[status] += 1

    def count_tokens(self, prompt: int, image: int, completion: int) -> None:
        with self._lock:
            self._tokens.update({"prompt": prompt, "image": image, "completion": completion})

    def time_first(self, seconds: float) -> None:
        """Counts the time from a request to its first text."""
        with self._lock:
            self._first.add(seconds)

    def time_whole(self, seconds: float) -> None:
        """Counts the time from a request to the end of its answer."""
        with self._lock:
            self._whole.add(seconds)

    def text(self, load: Load) -> str:
        """All of it, and what the engine holds at the moment."""
        with self._lock:
            lines = [f"# TYPE {PREFIX}requests_total counter"]
            lines += [f'{PREFIX}requests_total{{status="{key}"}} {count}' for key, count in self._requests.items()]
            lines.append(f"# TYPE {PREFIX}tokens_total counter")
            lines += [f'{PREFIX}tokens_total{{kind="{key}"}} {count}' for key, count in self._tokens.items()]
            gauges = {
                "queue_queries": load.waiting,
                "active_responses": load.active,
                "cache_pages": load.pages,
                "cache_pages_free": load.free_pages,
            }
            for name, value in gauges.items():
                lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {value}"]
            lines += self._first.lines("first_text_seconds")
            lines += self._whole.lines("request_seconds")
        return "\n".join(lines) + "\n"
