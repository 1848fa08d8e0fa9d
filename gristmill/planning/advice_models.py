"""Public models that an advice may name: those whose licence is open and whose architecture Gristmill computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_QWEN25 = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "pt", "ru", "th", "vi", "zh")
_QWEN3 = (*_QWEN25, "bn", "cs", "da", "el", "fa", "fi", "he", "hi", "hu", "id", "ms", "nb", "nl", "pl", "ro", "sv",
          "ta", "te", "tr", "uk", "ur")


@dataclass(frozen=True, kw_only=True)
class PublicModel:
    """One published model; languages: those that its makers name."""

    chat: str
    """Hub id of the version that answers."""
    base: str
    """Hub id of the version that only completes text."""
    family: str
    preset: str
    parameters: int
    languages: tuple[str, ...]
    licence: str
    source: str
    date: str

    def covers(self, languages: Sequence[str]) -> bool:
        return set(languages) <= set(self.languages)


def _smollm(size: str, preset: str, parameters: int) -> PublicModel:
    return PublicModel(chat=f"HuggingFaceTB/SmolLM2-{size}-Instruct", base=f"HuggingFaceTB/SmolLM2-{size}",
                       family="llama", preset=preset, parameters=parameters, languages=("en",), licence="Apache-2.0",
                       source="Allal et al. 2025, SmolLM2, arXiv:2502.02737", date="2025-02")


def _qwen25(size: str, parameters: int) -> PublicModel:
    return PublicModel(chat=f"Qwen/Qwen2.5-{size}-Instruct", base=f"Qwen/Qwen2.5-{size}", family="qwen",
                       preset=f"qwen2.5-{size.lower()}", parameters=parameters, languages=_QWEN25, licence="Apache-2.0",
                       source="Qwen team 2024, Qwen2.5, arXiv:2412.15115", date="2024-12")


def _qwen3(size: str, parameters: int) -> PublicModel:
    return PublicModel(chat=f"Qwen/Qwen3-{size}", base=f"Qwen/Qwen3-{size}-Base", family="qwen",
                       preset=f"qwen3-{size.lower()}", parameters=parameters, languages=_QWEN3, licence="Apache-2.0",
                       source="Qwen team 2025, Qwen3, arXiv:2505.09388; some of its 119 languages", date="2025-05")


PUBLIC_MODELS: tuple[PublicModel, ...] = (
    _smollm("135M", "smollm2-135m", 134_515_008),
    _smollm("360M", "smollm2-360m", 361_821_120),
    _qwen25("0.5B", 494_032_768),
    _qwen3("0.6B", 596_049_920),
    _qwen25("1.5B", 1_543_714_304),
    _smollm("1.7B", "smollm2-1.7b", 1_711_376_384),
    _qwen3("1.7B", 1_720_574_976),
    _qwen3("4B", 4_022_468_096),
    _qwen25("7B", 7_615_616_512),
    _qwen3("8B", 8_190_735_360),
)
"""From the smallest to the largest."""

LIMITS = {"try": 4e8, "good": 2e9, "best": 1e10}
"""Quality wish -> parameters beyond which nothing is looked at: a bigger model costs more every day that it serves."""


def choose_model(quality: str, languages: Sequence[str], most: float) -> tuple[PublicModel, bool]:
    """The largest model of at most `most` parameters that suits the wish, preferring one that covers the languages.

    Gives (model, whether it covers all the languages); the smallest one where none is small enough.
    """
    small = [m for m in PUBLIC_MODELS if m.parameters <= most] or [PUBLIC_MODELS[0]]
    covering = [m for m in small if m.covers(languages)]
    # A language that only a larger model knows is worth the larger model.
    wished = [m for m in covering if m.parameters <= LIMITS[quality]] or covering[:1]
    if wished:
        return wished[-1], True
    known = max(len(set(languages) & set(m.languages)) for m in small)
    near = [m for m in small if len(set(languages) & set(m.languages)) == known]
    return ([m for m in near if m.parameters <= LIMITS[quality]] or near[:1])[-1], False
