"""Span corruption: spans of a text are replaced by sentinels, and written out one after the other elsewhere (Raffel et
al. 2020, arXiv:1910.10683, section 3.1.4; the arithmetic of lengths is that of the published T5 code).

    text     the quick brown fox jumps over the lazy dog
    read     the quick <0> jumps over the <1>
    written  <0> brown fox <1> lazy dog

Everything here is a pure function of its arguments and a generator that the caller derives from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gristmill.core.config import config, require


@config
class Denoiser:
    """How much of a text is cut out, and in spans of which length."""

    density: float = 0.15
    """Share of the tokens that are cut out; at least one is, and at least one stays."""
    mean_span: float | None = 3.0
    """Mean length of a span; null for a single span, which is the end of the text."""
    mode: str = ""
    """Special token that begins what is read and tells the kind of task, e.g. [R] (Tay et al. 2022, arXiv:2205.05131,
    section 3.1.3); used where the objective says `mode_tokens`."""
    share: float = 1.0
    """How often, relative to the other denoisers of a mixture."""

    def __post_init__(self) -> None:
        require(0 < self.density < 1, "density", "must be above 0 and below 1")
        require(self.mean_span is None or self.mean_span >= 1, "mean_span", "must be at least 1, or null for one span")
        require(self.share > 0, "share", "must be positive")

    def counts(self, lengths: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that are cut out of texts of these lengths, and spans that they make; each like `lengths`, int64.

        Both follow from the length alone, so that it is known before any number is drawn what fits where. Rounding is
        to even, a text of one token counts as two.
        """
        whole = np.maximum(np.asarray(lengths, dtype=np.int64), 2)
        noise = np.clip(np.rint(whole * self.density).astype(np.int64), 1, whole - 1)
        if self.mean_span is None:
            return noise, np.ones_like(noise)
        spans = np.maximum(np.rint(noise / self.mean_span).astype(np.int64), 1)
        return noise, np.minimum(spans, np.minimum(noise, whole - noise))

    def sizes(self, lengths: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that texts of these lengths (at least 2) become: read, and written, each with one end token."""
        noise, spans = self.counts(lengths)
        return np.asarray(lengths, dtype=np.int64) - noise + spans + 1, noise + spans + 1


def noise_mask(length: int, denoiser: Denoiser, rng: np.random.Generator) -> np.ndarray:
    """Which tokens of a text are cut out, (length,) of bool.

    Kept and cut stretches take turns; a kept one comes first, a cut one last. All ways to divide the tokens of either
    kind into as many stretches as there are spans are equally likely.
    """
    noise, spans = (int(count) for count in denoiser.counts(length))
    whole = max(length, 2)
    stretches = np.empty(2 * spans, dtype=np.int64)
    stretches[1::2] = segments(noise, spans, rng)
    stretches[::2] = segments(whole - noise, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, stretches)[:length]


def segments(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths (parts,) of non-empty segments that `items` things are divided into, every division equally likely."""
    cuts = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=items)


def cut_out(ids: np.ndarray, mask: np.ndarray, sentinels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What is read and what is written, int64: ids (length,) with a sentinel in place of every cut stretch, and each
    cut stretch behind its sentinel. mask (length,) of bool; sentinels: the first stands for the first stretch, and so
    on. ValueError where there are more stretches than sentinels.
    """
    marks = np.asarray(sentinels, dtype=np.int64)
    first = mask & ~np.concatenate([[False], mask[:-1]])
    count = int(first.sum())
    if count > len(marks):
        raise ValueError(f"{count} spans, but {len(marks)} sentinels")
    read = np.where(first, 0, ids.astype(np.int64))
    read[first] = marks[:count]
    written = np.insert(ids[mask].astype(np.int64), np.flatnonzero(first[mask]), marks[:count])
    return read[~mask | first], written


def restored(read: np.ndarray, written: np.ndarray, sentinels: Sequence[int]) -> np.ndarray:
    """The text, int64, from what `cut_out` made of it: each sentinel that is read gives way to what was written behind
    it. Sentinels of which nothing is written vanish; what is written before the first sentinel is left out."""
    marks = set(sentinels)
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in written.tolist():
        if token in marks:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text: list[int] = []
    for token in read.tolist():
        text += spans.get(token, []) if token in marks else [token]
    return np.array(text, dtype=np.int64)
