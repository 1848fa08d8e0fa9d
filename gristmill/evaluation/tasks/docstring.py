"""Does a model know what a function is for? Bits per byte of its documented first line, and words in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.progress import Bar
from gristmill.core.seeds import derive_seed
from gristmill.data.python_pairs import explain_pair
from gristmill.evaluation.perplexity import score_tokens
from gristmill.evaluation.python_answers import first_line, token_f1
from gristmill.evaluation.statistics import Estimate, bootstrap, cluster_sums, paired_test
from gristmill.evaluation.subject import Subject
from gristmill.evaluation.tasks.base import HeldOut, Record, Setting, Summary, comparison, row, successive
from gristmill.evaluation.tasks.python_functions import fitting

METRIC = "bits per byte of the answer"
ROOM = 16
"""Tokens of the answer that must fit at least; longer answers are read through windows."""


@config
class Docstring:
    """The question what a function does, scored against the first line of its documentation."""

    kind: Literal["docstring"] = "docstring"
    prompts: int | None = None
    """Held-out functions to ask about; default the stage's."""
    max_tokens: int = 32
    """Longest greedy answer."""

    def __post_init__(self) -> None:
        require(self.prompts is None or self.prompts >= 1, "prompts", "must be at least 1")
        require(self.max_tokens >= 1, "max_tokens", "must be at least 1")

    def data(self, setting: Setting) -> list[HeldOut]:
        """Held-out functions whose question and documented first line fit every model's context."""
        def longest(subject: Subject, item: HeldOut) -> list[int]:
            pair = explain_pair(item.function)
            text = subject.tokenizer.encode(pair.answer)
            return max((ids + text for ids in renderings(subject, item).values()), key=len)

        return fitting(setting, self.prompts or setting.prompts, max(ROOM, self.max_tokens), longest)

    def work(self, data: list[HeldOut]) -> tuple[float, str]:
        return 2.0 * len(data), "questions"

    def measure(self, subject: Subject, data: list[HeldOut], setting: Setting, bar: Bar) -> Record:
        """Nats of the answer's text under each rendering of the question, and the greedy answer.

        A chat model is scored in its conversation. A plain model is scored in the rendering that suits it best (a
        docstring within a module, or question and answer as plain text): the one with the fewest nats in all.
        """
        answers = [subject.tokenizer.encode(explain_pair(i.function).answer) for i in data]
        asked = [renderings(subject, i) for i in data]
        nats: dict[str, list[float]] = {}
        ends: list[float] = []
        for number, name in enumerate(asked[0]):
            prompts = [a[name] for a in asked]
            nats[name] = self._nats(subject, prompts, answers)
            if name == "chat" and subject.tokenizer.end_of_turn_id is not None:
                whole = self._nats(subject, prompts, [[*a, subject.tokenizer.end_of_turn_id] for a in answers])
                ends = [w - n for w, n in zip(whole, nats[name], strict=True)]
            bar.advance(len(data) * (1 if number == 0 else 0))
        plain = [name for name in nats if name != "chat"]
        rendering = "chat" if subject.prompting == "chat" else min(plain, key=lambda name: sum(nats[name]))
        texts = self._write(subject, data, rendering, bar)
        return {
            "nats": nats[rendering], "rendering": rendering, "tokens": [len(a) for a in answers], "texts": texts,
            "chat_nats": [n + e for n, e in zip(nats["chat"], ends, strict=True)] if ends else [],
        }

    def _nats(self, subject: Subject, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
        sequences = [np.array(p + a) for p, a in zip(prompts, answers, strict=True)]
        scores = score_tokens(subject.model, sequences, context=subject.context, first_scored=[len(p) for p in prompts],
                              device=subject.compute.device, autocast=subject.compute.autocast, name=subject.name)
        return scores.nats.tolist()

    def _write(self, subject: Subject, data: list[HeldOut], rendering: str, bar: Bar) -> list[str]:
        from gristmill.generation import Sampling

        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0, stop_ids=subject.stop_ids)
        written = subject.write([renderings(subject, i)[rendering] for i in data], [sampling] * len(data), bar,
                                lambda text: "\n" in text.lstrip() or (rendering == "docstring" and '"""' in text))
        return [first_line(w.text.split('"""')[0] if rendering == "docstring" else w.text) for w in written]

    def measure_baselines(self, data: list[HeldOut], setting: Setting) -> Record:
        return {}

    def summarise(self, data: list[HeldOut], records: Mapping[str, Record], baselines: Record,
                  setting: Setting) -> Summary:
        """Bits per byte of the answer, and F1 of the greedy answer's words; sums over the functions of a document."""
        truths = [explain_pair(i.function).answer for i in data]
        documents = [i.document for i in data]
        sizes, counts = cluster_sums([len(t.encode()) for t in truths], documents)
        bits = {n: cluster_sums(np.asarray(r["nats"]) / np.log(2), documents)[0] for n, r in records.items()}
        f1 = {n: cluster_sums([token_f1(a, t) for a, t in zip(r["texts"], truths, strict=True)], documents)[0]
              for n, r in records.items()}
        notes = [f"{n} is no chat model: it was asked as {r['rendering']}, the plain form that suits it best"
                 for n, r in records.items() if r["rendering"] != "chat"]
        tables = [
            {**self._head(METRIC, "bits/byte", "lower", data, setting),
             "rows": [row(n, self._estimate(b, sizes, setting, n), rendering=records[n]["rendering"],
                          answer_loss=answer_loss(records[n])) for n, b in bits.items()],
             "notes": notes, "baselines": [], "comparisons": self._compare(bits, sizes, setting, "bits")},
            {**self._head("token F1 of the greedy answer", "share", "higher", data, setting),
             "rows": [row(n, self._estimate(f, counts, setting, n + " f1")) for n, f in f1.items()],
             "baselines": [], "comparisons": self._compare(f1, counts, setting, "f1")},
        ]
        details = {"questions": [{"key": i.key, "question": explain_pair(i.function).messages[-1]["content"],
                                  "documented": t} for i, t in zip(data, truths, strict=True)],
                   "answers": {n: r["texts"] for n, r in records.items()}}
        return Summary(tables=tables, details={"docstring": details})

    def _estimate(self, sums: np.ndarray, weights: np.ndarray, setting: Setting, name: str) -> Estimate:
        return bootstrap(sums, weights, seed=derive_seed(setting.seed, "docstring", name))

    def _compare(self, sums: Mapping[str, np.ndarray], weights: np.ndarray, setting: Setting,
                 metric: str) -> list[dict[str, Any]]:
        return [comparison(a, b, paired_test(sums[a], sums[b], weights,
                                             seed=derive_seed(setting.seed, "docstring", metric, a, b)))
                for a, b in successive(setting)]

    def _head(self, metric: str, unit: str, better: str, data: list[HeldOut], setting: Setting) -> dict[str, Any]:
        return {"task": "docstring", "metric": metric, "unit": unit, "better": better, "split": setting.split,
                "n": len(data), "n_unit": "functions", "documents": len({i.document for i in data})}


def renderings(subject: Subject, item: HeldOut) -> dict[str, list[int]]:
    """The ways to ask, as prompts: in a conversation (where there is a template), as a docstring to be filled in, and
    as question and answer in plain text."""
    pair = explain_pair(item.function)
    encode = subject.tokenizer.encode
    prompts = {}
    if subject.tokenizer.chat_template is not None:
        prompts["chat"] = subject.tokenizer.encode_chat(pair.messages, add_generation_prompt=True)
    if subject.prompting == "plain":
        prompts["docstring"] = [*subject.document_prefix, *encode(f'{item.function.signature}\n    """')]
        prompts["question"] = [*subject.document_prefix, *encode(pair.messages[-1]["content"] + "\n\n")]
    return prompts


def answer_loss(record: Record) -> float | None:
    """Nats a token of answer and end of turn in the conversation: what fine-tuning minimises. None without template."""
    if not record["chat_nats"]:
        return None
    return sum(record["chat_nats"]) / (sum(record["tokens"]) + len(record["tokens"]))
