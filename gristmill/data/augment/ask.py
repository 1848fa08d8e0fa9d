"""Asking a model for many texts: several at once, none twice, within a budget, and able to stop at any moment.

A text's requests are a generator (`rewriting.writing`), driven with answers from the journal or else from the writer.
Nothing is kept in memory but the journal's index: the texts are made again from the journal when all has been asked.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.core.errors import MachineError
from gristmill.core.writer import Answer, Writer
from gristmill.data.augment.journal import Journal, key_of
from gristmill.data.augment.method import Made
from gristmill.data.augment.rewriting import Call

GIVE_UP = 20
"""Requests in a row that a server could not answer, or would not, before the stage stops."""
Script = Generator[Call, Answer, Made]


@dataclass(frozen=True)
class Job:
    """A text to be made. requests, tokens: what it takes at most."""

    script: Callable[[], Script]
    requests: int
    tokens: int


@dataclass
class Asked:
    """What asking took. jobs: how many there were; within: how many the budget allowed, from the first on."""

    jobs: int = 0
    within: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    new: int = 0
    """Requests that the journal could not answer."""
    tries: int = 0
    """Requests that went out to servers, those tried again included."""
    failed: dict[str, str] = field(default_factory=dict)
    """Requests that nobody answered, by their keys, and why."""
    models: Counter[str] = field(default_factory=Counter)
    """Answers by what the model calls itself."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Asking:
    """One method's requests. Use `run` once; `replay` afterwards gives the texts."""

    def __init__(self, writers: Sequence[Writer], journals: Sequence[Journal], *, most_requests: int | None = None,
                 most_tokens: int | None = None, advance: Callable[[int], None] = lambda count: None) -> None:
        """writers, journals: of the method, and of its way back if that has another."""
        self.writers, self.journals, self.advance = writers, journals, advance
        self.most_requests, self.most_tokens = most_requests, most_tokens
        self.asked = Asked()
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._refused: list[tuple[int, str, Answer]] = []

    def run(self, jobs: Iterator[Job]) -> Asked:
        """Ask for all jobs in their order, as far as the budget goes. MachineError if the server does not answer."""
        threads = max(1, self.writers[0].concurrency)
        waiting: queue.Queue[list[Job] | None] = queue.Queue()
        done: queue.Queue[tuple[list[Job], int, int] | BaseException] = queue.Queue()
        stopped = threading.Event()
        workers = [threading.Thread(target=self._work, args=(waiting, done, stopped), daemon=True)
                   for _ in range(threads)]
        for worker in workers:
            worker.start()
        held = Counter[str]()  # reserved for what is under way
        flying = 0
        spent = Counter[str]()

        def collect() -> None:
            nonlocal flying
            ended = done.get()
            if isinstance(ended, BaseException):
                raise ended
            group, requests, tokens = ended
            flying -= 1
            held.subtract({"requests": sum(job.requests for job in group), "tokens": sum(job.tokens for job in group)})
            spent.update({"requests": requests, "tokens": tokens})
            self.advance(len(group))

        def fits(group: list[Job]) -> bool:
            limits = {"requests": self.most_requests, "tokens": self.most_tokens}
            wanted = {"requests": sum(j.requests for j in group), "tokens": sum(j.tokens for j in group)}
            return all(most is None or spent[what] + held[what] + wanted[what] <= most for what, most in limits.items())

        try:
            over = False
            for group in _groups(jobs, self.writers[0].batch):
                self.asked.jobs += len(group)
                if over:
                    continue
                while flying and (not fits(group) or flying >= 2 * threads):
                    collect()
                while group and not fits(group):  # the last group of a budget may be a smaller one
                    group.pop()
                    over = True
                if group:
                    self.asked.within += len(group)
                    held.update({"requests": sum(j.requests for j in group), "tokens": sum(j.tokens for j in group)})
                    flying += 1
                    waiting.put(group)
            while flying:
                collect()
        finally:
            stopped.set()
            for _ in workers:
                waiting.put(None)
        self._settle_refusals()
        self.asked.tries = sum(getattr(writer, "tries", 0) for writer in self.writers)
        return self.asked

    def replay(self, script: Script) -> Made:
        """A text made from the journal."""
        return self._drive([script], lambda writer, calls: [self._known(writer, call) for call in calls])[0]

    def _settle_refusals(self) -> None:
        """Refusals count for good once something else was answered: a server that refuses everybody can be mended."""
        for number, key, answer in self._refused:
            self.journals[number].add([(key, answer)])
        self._refused.clear()

    def _known(self, writer: int, call: Call) -> Answer:
        key = key_of(self.writers[writer], call.request)
        answer = self.journals[writer].find(key)
        return answer or Answer("", "failed", detail=self.asked.failed.get(key, "it was not asked"))

    def _work(self, waiting: queue.Queue[list[Job] | None], done: queue.Queue[Any], stopped: threading.Event) -> None:
        while (group := waiting.get()) is not None and not stopped.is_set():
            used = Counter[str]()
            try:
                self._drive([job.script() for job in group], functools.partial(self._ask, used))
            except BaseException as error:  # raised again by whoever waits
                done.put(error)
                return
            done.put((group, used["requests"], used["tokens"]))

    def _drive(self, scripts: Sequence[Script], answers: Callable[[int, list[Call]], list[Answer]]) -> list[Made]:
        """Run scripts side by side, each step's requests to the same writer together."""
        made: dict[int, Made] = {}
        calls: dict[int, Call] = {}

        def proceed(number: int, answer: Answer | None) -> None:
            try:
                calls[number] = next(scripts[number]) if answer is None else scripts[number].send(answer)
            except StopIteration as ended:
                made[number] = ended.value
                calls.pop(number, None)

        for number in range(len(scripts)):
            proceed(number, None)
        while calls:
            writer = min(call.writer for call in calls.values())
            asked = [number for number, call in calls.items() if call.writer == writer]
            for number, answer in zip(asked, answers(writer, [calls[number] for number in asked]), strict=True):
                proceed(number, answer)
        return [made[number] for number in range(len(scripts))]

    def _ask(self, used: Counter[str], number: int, calls: list[Call]) -> list[Answer]:
        writer, journal = self.writers[number], self.journals[number]
        keys = [key_of(writer, call.request) for call in calls]
        found = [journal.find(key) for key in keys]
        if any(answer is None for answer in found):
            # All of them, so that a batch is the same batch when an interrupted one is made again.
            fresh = writer.write([call.request for call in calls])
            news = [(key, new) for key, old, new in zip(keys, found, fresh, strict=True) if old is None]
            journal.add([(key, answer) for key, answer in news if answer.finish not in ("failed", "refused")])
            with self._lock:
                self.asked.new += len(news)
                for key, answer in news:
                    if answer.finish == "failed":
                        self.asked.failed[key] = answer.detail
                    elif answer.finish == "refused":
                        self._refused.append((number, key, answer))
                    else:
                        self._settle_refusals()
                    self._in_a_row = self._in_a_row + 1 if answer.finish in ("failed", "refused") else 0
                    if self._in_a_row >= GIVE_UP:
                        raise MachineError(f"{GIVE_UP} requests in a row were not answered: {answer.detail}",
                                           where=writer.name, fix="look at the server; then run the same command "
                                           "again: what was answered is not asked again")
            found = [old or new for old, new in zip(found, fresh, strict=True)]
        answers = [answer for answer in found if answer is not None]
        with self._lock:
            self.asked.requests += len(answers)
            for answer in answers:
                self.asked.prompt_tokens += answer.prompt_tokens
                self.asked.completion_tokens += answer.completion_tokens
                self.asked.models[answer.model] += bool(answer.model)
        used["requests"] += len(answers)
        used["tokens"] += sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)
        return answers


def _groups(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    group: list[Job] = []
    for job in jobs:
        group.append(job)
        if len(group) == max(1, size):
            yield group
            group = []
    if group:
        yield group
