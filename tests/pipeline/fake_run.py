"""A fake run for the tests of the report: small, made by code, with everything a real one has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.seeds import derive_seed, fraction

EVIL = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>&amp;"
PROMPTS = (
    ("def __init__(self", ", "),
    ("import os\nimport sys\n\n\ndef main():\n    if len(sys.argv", ")"),
    ("    for i in range(", "len"),
    ("    try:\n        return int(value)\n    except", " ValueError"),
)
CODE = (
    'def {0}(self, value, default=None):\n    """Return the {0} of a value."""\n    if value is None:\n'
    "        return default\n    return self.{0}_table[value]\n\n\n"
)
RECIPE = "name: {name}\nseed: 1337\nstages:\n  corpus: {{uses: data, sources: [{{kind: python_stdlib}}]}}\n  # {evil}\n"


class FakeRun:
    """Builds a run's folder as the pipeline leaves it. `evil` is put wherever text comes from data or from models."""

    def __init__(self, root: Path, name: str = "quickstart", evil: str = "") -> None:
        self.folder, self.name, self.evil = root / name, name, evil
        self.records: dict[str, dict[str, Any]] = {}

    def build(self) -> Path:
        tokenizer_ids = self.data_and_tokens()
        self.pretrain(tokenizer_ids)
        self.finetune()
        self.align()
        self.evaluation()
        self.artifact("release", "export", "release", ["aligned", "scores"], {}, 6.4, {})
        kinds = {
            "corpus": "data",
            "tokenizer": "tokenizer",
            "base": "pretrain",
            "assistant": "finetune",
            "aligned": "align",
            "scores": "evaluate",
            "release": "export",
        }
        stages = [
            {
                "name": n,
                "kind": kinds[n],
                "produces": r["kind"],
                "version": r["version"],
                "state": "done",
                "needs": [],
                "identity": "0",
                "error": None,
            }
            for n, r in self.records.items()
        ]
        self.write(
            "run.json",
            {
                "run": self.name,
                "seed": 1337,
                "state": "done",
                "stage": None,
                "started": "2026-05-04T10:00:00",
                "finished": "2026-05-04T10:09:12.000+00:00",
                "stages": stages,
            },
        )
        events = [{"event": "run_started"}] + [
            {"event": "stage_reused" if n in ("corpus", "tokenizer") else "stage_started", "stage": n}
            for n in self.records
        ]
        self.write_lines("log.jsonl", events)
        (self.folder / "recipe.yaml").write_text(RECIPE.format(name=self.name, evil=self.evil), encoding="utf-8")
        return self.folder

    def write(self, name: str, value: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")

    def write_lines(self, name: str, values: list[Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")

    def artifact(
        self,
        name: str,
        uses: str,
        kind: str,
        inputs: list[str],
        metrics: dict[str, Any],
        seconds: float,
        config: dict[str, Any],
    ) -> str:
        found = {
            text: {**{k: self.records[text][k] for k in ("name", "version", "kind", "digest")}, "path": f"../{text}@1"}
            for text in inputs
        }
        self.records[name] = {
            "kind": kind,
            "name": f"{self.name}/{name}",
            "version": 1,
            "digest": f"{derive_seed(name):016x}" * 4,
            "uses": uses,
            "config": config,
            "inputs": found,
            "metrics": metrics,
            "seed": 7,
            "seconds": seconds,
            "identity": "0",
            "code": {"version": "0.1.0", "commit": "f" * 40, "dirty": False},
            "runtime": {"threads": 0},
            "libraries": {"python": "3.12.1", "torch": "2.13.0", "numpy": "2.4.6", "tokenizers": "0.23.3"},
            "machine": {"cpu": f"A processor{self.evil}", "cores": 2, "system": "Linux", "machine": "x86_64"},
            "started": "2026-05-04T10:00:00.000+00:00",
            "finished": "2026-05-04T10:01:00.000+00:00",
        }
        self.write(f"artifacts/{name}@1/artifact.json", self.records[name])
        return f"artifacts/{name}@1"

    def data_and_tokens(self) -> Any:
        from gristmill.data.funnel import Tally, count, funnel, length_bin
        from gristmill.tokenizer.train import train_bpe
        from gristmill.tokens.shards import ShardWriter

        names = [f"lib/module_{i}.py{self.evil if i == 3 else ''}" for i in range(160)]
        texts = [
            (self.evil + "\n" if i == 3 else "")
            + "".join(CODE.format(w) for w in ("count", "name", "size", "path")[: 1 + i % 4])
            * int(1 + 12 * fraction(1, i) ** 2)
            for i in range(160)
        ]
        sizes = [len(t) for t in texts]
        source = ["python_stdlib" if i % 5 else "files" for i in range(160)]
        tally: Tally = {}
        for _ in range(3):
            count(tally, ("dropped", "collect", "files", "not UTF-8"), 900)
        left = [i for i in range(160) if i % 9]
        for i in range(160):
            phase = "filter" if not i % 9 else "exact" if i in left[:12] else "near" if i in left[12:40] else ""
            reason = {"filter": ("max_encoded" if i % 3 else "min_lines") + self.evil}.get(phase, f"{phase}_duplicate")
            split = "train" if i < 140 else "valid" if i < 150 else "test"
            for place in (("dropped", phase, source[i], reason),) if phase else (
                    ("kept", source[i]), ("splits", split), ("languages", "python" if i % 17 else "en"),
                    ("lengths", str(length_bin(sizes[i])))):
                count(tally, place, sizes[i])
        leaked = {"test": {"shared": 0.0031, "documents_over_half": 0}}
        clusters = {"units": {}, "clusters": {"of_several": 4}, "near_duplicates_across_splits": 0,
                    "highest_similarity_across_splits": 0.0}
        described = funnel(tally, {}, clusters, leaked)
        reasons = described["reasons"]
        example = {"id": names[3], "source": "python_stdlib", "language": "python", "split": "train", "text": texts[3]}
        corpus = self.artifact(
            "corpus",
            "data",
            "corpus",
            [],
            {"documents": 102, "bytes": sum(sizes)},
            48.2,
            {"sources": [{"kind": "python_stdlib"}, {"kind": "files", "path": f"texts{self.evil}/**"}]},
        )
        described["alarms"] = [{"source": "files", "what": f"source files lost 61 %{self.evil}", "fix": "look"}]
        self.write(f"{corpus}/funnel.json", described)
        pair = {"gone": f"a{self.evil}", "kept": "b", "similarity": 0.81, "gone_text": self.evil, "kept_text": "x"}
        none = {"documents": 0, "bytes": 0, "examples": []}
        self.write(f"{corpus}/duplicates.json", {"sources": {f"files{self.evil}": {"removed": {
            "url": none, "exact": none, "near": {"documents": 28, "bytes": 280, "examples": [pair]}}}}})
        self.write(f"{corpus}/signals.json", {
            "length_v1.words": {"edges": [0, 10, 100], "kept": [3, 90], "dropped": [7, 1],
                                "rules": [{"rule": f"min_words{self.evil}", "low": 10, "high": None}]},
            f"odd{self.evil}": {"edges": [0, 1], "kept": [100], "dropped": [0], "rules": []}})
        self.write(f"{corpus}/contamination.json", {"tasks": {f"exam{self.evil}": {
            "texts": 9, "texts_found": 1, "documents": 1, "examples": [
                {"document": f"lib{self.evil}", "item": "q", "words": self.evil}]}}})
        self.write(
            f"{corpus}/examples.json",
            {
                "kept": [example, {**example, "id": "lib/heapq.py", "text": texts[8]}],
                "rejected": {r: [{**example, "id": f"rejected {r}", "detail": f"is 0.4{self.evil}"}] for r in reasons},
            },
        )
        self.write(
            f"{corpus}/card.json",
            {"sources": [{"licenses": {"PSF-2.0": 100}}], "limits": ["Nothing was removed for licences."]},
        )
        tokenizer = train_bpe([texts], vocab_size=330)
        folder = self.artifact("tokenizer", "tokenizer", "tokenizer", ["corpus"], {}, 9.1, {})
        tokenizer.save(self.folder / folder)
        longest = [
            {"id": 300 + i, "bytes": 12 - i, "text": t}
            for i, t in enumerate(["        return", " default=None", "\n\n\ndef ", f"get{self.evil}"])
        ]
        self.write(
            f"{folder}/metrics.json",
            {
                "vocab_size": 330,
                "merges": 67,
                "valid_bytes_per_token": 3.412,
                "train_bytes_per_token": 3.5,
                "unused_entries": 2,
                "special_tokens": {"<|pad|>": 0, "<|bos|>": 1, "<|eos|>": 2},
                "longest_tokens": longest,
            },
        )
        about = {"corpus": "c", "tokenizer": tokenizer.digest, "split": "train", "format": 1, "limit_bytes": None}
        with ShardWriter(self.folder / "cache" / "tokens-abc", tokenizer.vocab_size, about=about) as writer:
            for name, text in zip(names, texts, strict=True):
                writer.add(np.array([1, *tokenizer.encode(text), 2], dtype=np.uint32), name, len(text.encode()))
            writer.finish()
        return tokenizer

    def curves(
        self, folder: str, steps: int, start: float, end: float, tokens: int, key: str, evaluations: int, more: Any
    ) -> None:
        loss = [
            end + (start - end) * math.exp(-6 * s / steps) + 0.12 * (fraction("n", folder, s) - 0.5)
            for s in range(1, steps + 1)
        ]
        self.write_lines(
            f"{folder}/trace.jsonl",
            [
                {
                    "step": s,
                    "tokens": s * tokens,
                    "loss": loss[s - 1],
                    "lr": 0.003 * min(1, s / 20) * min(1, (steps - s) / steps * 2 + 0.02),
                    "grad_norm": 0.4 + 3 / s + fraction("g", folder, s),
                    "accuracy": 0.5,
                }
                for s in range(1, steps + 1)
            ],
        )
        self.write_lines(
            f"{folder}/telemetry/speed.jsonl",
            [
                {
                    "step": s,
                    "seconds": 0.4,
                    "tokens_per_second": 9000 + 900 * fraction("v", folder, s),
                    "data_wait": 0.01,
                    "memory_mb": 900 + s,
                    "mfu": 0.4 + 0.02 * fraction("m", folder, s),
                    "watts_estimated": 8.0,
                    "joules_estimated": 3.2,
                }
                for s in range(1, steps + 1)
            ],
        )
        due = [round(steps * i / evaluations) for i in range(evaluations + 1)]
        self.write_lines(
            f"{folder}/evaluations.jsonl",
            [
                {
                    "step": s,
                    "tokens": s * tokens,
                    "score": 1.0,
                    key: (loss[s - 1] if s else start) + 0.1,
                    **more(s / steps),
                }
                for s in due
            ],
        )

    def pretrain(self, tokenizer: Any) -> None:
        folder = self.artifact(
            "base",
            "pretrain",
            "model",
            ["corpus", "tokenizer"],
            {"parameters": 7_341_312, "steps": 620, "tokens": 620 * 4096, "final_loss": 2.61},
            268.0,
            {},
        )
        self.write(
            f"{folder}/plan.json",
            {
                "steps": 620,
                "batch": 16,
                "parameters": 7_341_312,
                "flops_per_token": 36_000_000,
                "epochs": 0.31,
                "derivations": ["dim = 256: 128 x ceil(depth / 3)", f"steps = 620 {self.evil}"],
            },
        )
        self.write(f"{folder}/telemetry/compute.json", {"threads": 2, "compile": True, "seconds_per_step": 0.41})
        guesses = (",", "):", " ", "\n    ", "(", "return", " =", "\t", "None")

        def more(done: float) -> dict[str, Any]:
            prompts = []
            for n, (text, true) in enumerate(PROMPTS):
                right = 0.85 / (1 + math.exp(-9 * (done - 0.25 - 0.13 * n))) + 0.0004
                others = sorted(
                    (
                        0.9 * (1 - right) * (0.05 + fraction(n, i, round(done * 9)) * (0.1 + 0.4 * done))
                        for i in range(5)
                    ),
                    reverse=True,
                )
                top = [[guesses[(n + 2 * i + round(done * 5)) % 9], p] for i, p in enumerate(others)]
                top = sorted([*top, [true, right]], key=lambda item: -item[1])[:5]
                prompts.append(
                    {
                        "prompt": text + (self.evil if n == 3 else ""),
                        "true": true,
                        **({"rest": f"items:{self.evil}"} if n == 1 else {}),
                        "true_probability": right,
                        "top": top,
                    }
                )
            said = [
                "\x00\ud800)()(,,,  the the",
                ", name):\n        self.name = name\n",
                f", name, value=None):{self.evil}\n        self.name = name",
            ]
            return {
                "valid_bits_per_byte": 1.72 + 6.2 * math.exp(-6 * done),
                "valid_accuracy": 0.47 * done,
                "prompts": prompts,
                "samples": [{"prompt": p, "text": said[min(2, int(done * 3))]} for p, _ in PROMPTS[:2]],
            }

        self.curves(folder, 620, 9.0, 2.6, 4096, "valid_loss", 8, more)

    def finetune(self) -> None:
        folder = self.artifact(
            "assistant",
            "finetune",
            "model",
            ["base", "corpus"],
            {"conversations": 9120, "rejected": 214, "steps": 60, "tokens": 60 * 3300},
            52.0,
            {},
        )
        self.write(f"{folder}/plan.json", {"steps": 60, "batch": 16, "replay_rows": 3})
        self.write(
            f"{folder}/rejects.json",
            {
                "counts": {"longer than a row": 214},
                "examples": [
                    {"reason": "longer than a row", "where": "complete", "row": "What does this do?" + self.evil}
                ],
            },
        )
        self.curves(
            folder,
            60,
            3.4,
            2.2,
            3300,
            "answer_loss",
            3,
            lambda done: {"answer_accuracy": 0.3 + 0.2 * done, "general_bits_per_byte": 1.72 + 0.03 * done},
        )

    def align(self) -> None:
        counts = {"answers": 1024, "parse": 402, "trivial": 61, "train_pairs": 244, "valid_pairs": 22}
        folder = self.artifact(
            "aligned", "align", "model", ["assistant", "corpus"], {**counts, "steps": 30, "tokens": 31000}, 96.0, {}
        )
        self.write(f"{folder}/plan.json", {"steps": 30, "batch": 16, **counts})
        pair = {
            "prompt": "<|user|>Write the body of this Python function.\n\ndef is_empty(self):<|end|><|assistant|>",
            "chosen": f"    return len(self.items) == 0{self.evil}<|end|>",
            "rejected": "    return self.items[ == \n    if<|end|>",
        }
        self.write(f"{folder}/preferences.json", {"counts": counts, "train": [pair, pair], "valid": [pair]})
        self.curves(
            folder,
            30,
            0.7,
            0.5,
            1000,
            "preference_loss",
            3,
            lambda done: {"preference_accuracy": 0.5 + 0.3 * done, "reward_margin": 0.6 * done},
        )

    def evaluation(self) -> None:
        folder = self.artifact(
            "scores", "evaluate", "evaluation", ["base", "assistant", "aligned", "corpus"], {}, 61.0, {}
        )
        models = [f"{self.name}/{n}@1" for n in ("base", "assistant", "aligned")]

        def table(
            task: str, metric: str, unit: str, better: str, values: list[float], spread: float, **more: Any
        ) -> dict[str, Any]:
            compared = [(0, 1), (1, 2), (0, 2)]
            return {
                "task": task,
                "metric": metric,
                "unit": unit,
                "better": better,
                "split": "test",
                "n": 128,
                "n_unit": "functions",
                "rows": [
                    {"model": m, "value": v, "low": v - spread, "high": v + spread, "stderr": spread / 2}
                    for m, v in zip(models, values, strict=True)
                ],
                "baselines": [],
                "comparisons": [
                    {
                        "from": models[a],
                        "to": models[b],
                        "difference": values[b] - values[a],
                        "n": 128,
                        "low": values[b] - values[a] - spread,
                        "high": values[b] - values[a] + spread,
                        "p_value": 0.0004 if abs(values[b] - values[a]) > spread else 0.31,
                        "test": "paired sign flips",
                    }
                    for a, b in compared
                ],
                **more,
            }

        rivals = [
            {"name": "xz", "value": 1.512, "note": "xz -9e, each document alone" + self.evil},
            {"name": "5-gram", "value": 1.874, "note": "Kneser-Ney"},
        ]
        asked = "What does this Python function do?\n\ndef read_text(path):\n    return open(path).read()"
        outputs = dict(
            zip(
                models,
                ["\n\n\ndef write_text(path):", "Read the text of a file.", f"Return the text of the file.{self.evil}"],
                strict=True,
            )
        )
        self.write(
            f"{folder}/results.json",
            {
                "seed": 3,
                "models": [{"name": m, "parameters": 7_341_312} for m in models],
                "tasks": [
                    table(
                        "perplexity",
                        "bits per byte",
                        "bits/byte",
                        "lower",
                        [1.731, 1.759, 1.764],
                        0.021,
                        baselines=rivals,
                        notes=["2 documents above 25% of the limit were passed over"],
                    ),
                    table("perplexity", "next-token accuracy", "share", "higher", [0.471, 0.463, 0.462], 0.007),
                    table(
                        "python_functions", "parses and does something", "share", "higher", [0.21, 0.384, 0.527], 0.06
                    ),
                    table("docstring", "bits per byte of the answer", "bits/byte", "lower", [2.31, 1.62, 1.66], 0.09),
                ],
                "gains": [
                    {
                        "stage": "base",
                        "model": models[0],
                        "metric": "bits per byte",
                        "before": 1.874,
                        "after": 1.731,
                        "p_value": 0.0001,
                        "improved": True,
                        "unit": "bits/byte",
                        "text": f"base{self.evil} is better than 5-gram: bits per byte 1.874 -> 1.731 "
                        "(-0.143, 95 % interval -0.171 to -0.118, p = 0.0001); clearly",
                    },
                    {
                        "stage": "assistant",
                        "metric": "bits per byte of the answer",
                        "before": 2.31,
                        "after": 1.62,
                        "p_value": 0.0002,
                        "improved": True,
                        "text": "assistant is better than base: bits per byte of the answer 2.31 -> 1.62 (p = 0.0002)",
                    },
                    {
                        "stage": "align",
                        "model": "aligned",
                        "metric": "parses",
                        "before": 0.384,
                        "after": 0.397,
                        "p_value": 0.31,
                        "improved": False,
                        "unit": "share",
                        "text": None,
                    },
                ],
                "forgetting": [
                    {
                        "model": m,
                        "against": models[0],
                        "metric": "bits per byte",
                        "difference": d,
                        "low": d - 0.008,
                        "high": d + 0.008,
                        "text": f"{m} has forgotten something of general text",
                    }
                    for m, d in zip(models[1:], (0.028, 0.033), strict=True)
                ],
                "samples": [
                    {"prompt": "import os\n", "outputs": outputs},
                    {
                        "prompt": asked + self.evil,
                        "question": True,
                        "documented": "Read the file as text.",
                        "outputs": outputs,
                    },
                ],
            },
        )
