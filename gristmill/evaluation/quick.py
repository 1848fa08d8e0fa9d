"""One model on one text, at once: what `gristmill evaluate` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.progress import Progress, Silent
from gristmill.core.seeds import derive_seed
from gristmill.evaluation.baselines import xz_bytes, xz_overhead
from gristmill.evaluation.perplexity import score_tokens
from gristmill.evaluation.statistics import Estimate, bootstrap, paired_test
from gristmill.evaluation.tasks.perplexity import HeldOutText, held_out_text
from gristmill.models.require import require_decoder

if TYPE_CHECKING:
    from gristmill.generation import LanguageModel


def evaluate_model(
    model: LanguageModel,
    *,
    corpus: Artifact | Path | str | None = None,
    text: str | Path | Sequence[str] | None = None,
    split: str = "test",
    max_bytes: int = 250_000,
    stride: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bits per byte and next-token accuracy of a model, with 95 % intervals over documents, beside xz.

    corpus: a corpus artifact (or its path), of which `split` is read. text: one text, several, or the path of a
    UTF-8 file, in place of a corpus. Returns JSON-ready values: {"model", "text", "documents", "bytes", "tokens",
    "bits_per_byte": {"value", "low", "high"}, "bits_per_token", "accuracy": {...}, "baselines": {"xz": ...},
    "comparison": {...}}. With a single document there is no interval: low and high are null.
    Raises UserError where there is nothing to read, InternalError where the model's logits are not finite.
    """
    if (corpus is None) == (text is None):
        raise UserError("give either a corpus or a text", fix="--corpus ARTIFACT or --text FILE")
    require_decoder(model.model, model.name)
    name, data = _read_corpus(corpus, split, max_bytes, seed) if corpus is not None else _read_text(text, max_bytes)
    tokenizer, context = model.tokenizer, min(model.model.config.context, 1024)
    start = tokenizer.document_start_id
    prefix = [tokenizer.document_end_id if start is None else start]
    sequences = [np.asarray([*prefix, *ids, tokenizer.document_end_id]) for ids in tokenizer.encode_batch(data.texts)]
    parameter = next(model.model.parameters())
    with (progress or Silent()).bar(f"evaluating {model.name}", sum(len(s) - 1 for s in sequences), "tokens") as bar:
        scores = score_tokens(model.model, sequences, context=context, stride=stride, device=parameter.device,
                              name=model.name, advance=bar.advance)
    bits = scores.nats / np.log(2)
    packed = np.array([8.0 * xz_bytes(t) for t in data.texts])
    result: dict[str, Any] = {
        "model": model.name, "text": name, "documents": len(data.texts), "bytes": int(data.sizes.sum()),
        "tokens": int(scores.tokens.sum()), "whole": data.whole,
        "bits_per_byte": _interval(bootstrap(bits, data.sizes, seed=derive_seed(seed, "bits"))),
        "bits_per_token": float(bits.sum() / scores.tokens.sum()),
        "accuracy": _interval(bootstrap(scores.correct, scores.tokens, seed=derive_seed(seed, "accuracy"))),
        "baselines": {"xz": {"value": float(packed.sum() / data.sizes.sum()),
                             "note": f"xz -9e, each document alone, {xz_overhead()} bytes of frame each"}},
        "context": context, "seed": seed,
    }
    if len(data.texts) > 1:
        paired = paired_test(packed, bits, data.sizes, seed=derive_seed(seed, "xz"))
        result["comparison"] = {"from": "xz", "to": model.name, "difference": paired.difference, "low": paired.low,
                                "high": paired.high, "p_value": paired.p_value, "n": paired.n, "test": paired.test}
    return result


def _interval(estimate: Estimate) -> dict[str, float | None]:
    alone = estimate.n < 2
    return {"value": estimate.value, "low": None if alone else estimate.low, "high": None if alone else estimate.high}


def _read_corpus(corpus: Artifact | Path | str, split: str, max_bytes: int, seed: int) -> tuple[str, HeldOutText]:
    path = corpus.path if isinstance(corpus, Artifact) else Path(corpus)
    name = corpus.name if isinstance(corpus, Artifact) else str(corpus)
    return f"{name} ({split})", held_out_text(path, split, max_bytes, seed)


def _read_text(text: str | Path | Sequence[str] | None, max_bytes: int) -> tuple[str, HeldOutText]:
    name = "text"
    if isinstance(text, Path):
        name = str(text)
        try:
            texts = [text.read_text(encoding="utf-8")]
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UserError("there is no such file", where=name, fix="name a text file") from error
        except UnicodeDecodeError as error:
            raise UserError(f"byte {error.start} is not UTF-8", where=name, fix="convert the file to UTF-8") from error
    else:
        texts = [text] if isinstance(text, str) else list(text or [])
    kept, used = [], 0
    for item in texts:
        cut = item.encode()[: max(0, max_bytes - used)].decode("utf-8", "ignore")
        if cut:
            kept.append(cut)
            used += len(cut.encode())
    if not kept:
        raise UserError("there is no text to evaluate on", where=name, fix="give a text that is not empty")
    sizes = np.array([float(len(t.encode())) for t in kept])
    return name, HeldOutText([str(i) for i in range(len(kept))], kept, sizes, 0, kept == texts)
