"""Reading batches ahead of training; how far ahead never changes which batches come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Protocol, TypeVar

B_co = TypeVar("B_co", covariant=True)


class BatchSource(Protocol[B_co]):
    """What a loader reads: batches by their number."""

    @property
    def steps(self) -> int | None: ...

    def batch(self, step: int) -> B_co: ...


class Loader(Generic[B_co]):
    """Yields (step, batch) from `start` to `stop`, made by `prefetch` threads ahead of time (0: none, when asked).

    A batch is a pure function of its step, so the sequence is the same for any `prefetch`. An error in a thread is
    raised at its own step. `waited`: seconds that the reader had to wait for data so far.
    """

    def __init__(self, source: BatchSource[B_co], start: int = 0, stop: int | None = None, *,
                 prefetch: int = 1) -> None:
        if prefetch < 0:
            raise ValueError("prefetch: must be at least 0")
        ends = [end for end in (stop, source.steps) if end is not None]
        self.source, self.start, self.stop = source, start, min(ends) if ends else None
        self.prefetch, self.waited = prefetch, 0.0
        self._pool = ThreadPoolExecutor(prefetch, thread_name_prefix="batches") if prefetch else None
        self._ahead: deque[tuple[int, Future[B_co]]] = deque()
        self._next = start

    def __enter__(self) -> Loader[B_co]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, B_co]]:
        return self

    def __next__(self) -> tuple[int, B_co]:
        began = time.perf_counter()
        try:
            if self._pool is None:
                step = self._take()
                return step, self.source.batch(step)
            while len(self._ahead) < self.prefetch and (self.stop is None or self._next < self.stop):
                step = self._take()
                self._ahead.append((step, self._pool.submit(self.source.batch, step)))
            if not self._ahead:
                raise StopIteration
            step, future = self._ahead.popleft()
            batch = future.result()
            if self.stop is None or self._next < self.stop:  # keep the threads busy while this batch is used
                ahead = self._take()
                self._ahead.append((ahead, self._pool.submit(self.source.batch, ahead)))
            return step, batch
        finally:
            self.waited += time.perf_counter() - began

    def close(self) -> None:
        """Stop reading ahead; batches already begun are waited for."""
        if self._pool is not None:
            for _, future in self._ahead:
                future.cancel()
            self._pool.shutdown(wait=True)
            self._ahead.clear()

    def _take(self) -> int:
        if self.stop is not None and self._next >= self.stop:
            raise StopIteration
        self._next += 1
        return self._next - 1
