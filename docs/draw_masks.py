"""Draw every attention mask from the code that applies it: `python docs/draw_masks.py` writes docs/images/mask-*.svg.

Rows are queries, columns keys; a filled cell is seen, a dot is not. tests/models/test_decoder_pages.py checks that the
stored pictures are those that the code gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gristmill.models.layers.masks import CAUSAL, FULL, Pattern, allowed

FOLDER = Path(__file__).parent / "images"
TOKENS, CELL, GAP, LEFT, TOP = 24, 12, 2, 34, 30
BLUE, ORANGE, GREEN, GREY = "#3b82f6", "#f59e0b", "#10b981", "#7d8590"
"""Of middle lightness: they stand out on white and on black."""


@dataclass(frozen=True)
class Layer:
    """Cells of one colour, and what they are."""

    label: str
    colour: str
    cells: Tensor
    """(TOKENS, TOKENS) of bool."""


def seen(pattern: Pattern, document_ids: Tensor | None = None, prefix: Tensor | None = None) -> Tensor:
    """What the models' own function allows, (TOKENS, TOKENS) of bool."""
    row = [None if given is None else given[None] for given in (document_ids, prefix)]
    return allowed(pattern, 0, TOKENS, TOKENS, torch.device("cpu"), row[0], None, row[1])[0, 0]


def two(label: str, pattern: Pattern, more: str, wider: Tensor) -> list[Layer]:
    """What a simpler pattern sees, and what comes to it."""
    first = seen(pattern) & wider
    return [Layer(label, BLUE, first), Layer(more, ORANGE, wider & ~first)]


def pictures() -> dict[str, tuple[str, list[Layer]]]:
    """Name -> what it shows, and its layers."""
    places = torch.arange(TOKENS)
    documents = torch.bucketize(places, torch.tensor([8, 19]), right=True)
    packed = seen(CAUSAL, documents)
    colours = (BLUE, ORANGE, GREEN)
    window = Pattern(window=6)
    return {
        "causal": ("causal: a query sees all keys before it", [Layer("seen", BLUE, seen(CAUSAL))]),
        "full": ("full: everybody sees everybody", [Layer("seen", BLUE, seen(FULL))]),
        "prefix": ("prefix of 7 tokens: seen by all, itself in both directions",
                   two("causal", CAUSAL, "by the prefix", seen(CAUSAL, prefix=places < 7))),
        "packed": ("three documents packed into one row, each for itself",
                   [Layer(f"document {i + 1}", colours[i], packed & (documents == i)[:, None]) for i in range(3)]),
        "window": ("sliding window of 6", [Layer("seen", BLUE, seen(window))]),
        "dilated": ("window of 5 with dilation 3", [Layer("seen", BLUE, seen(Pattern(window=5, dilation=3)))]),
        "strided": ("window of 4, and every 6th key before the query",
                    two("window", Pattern(window=4), "stride", seen(Pattern(window=4, stride=6)))),
        "global": ("window of 5, and 2 global tokens",
                   two("window", Pattern(window=5), "global", seen(Pattern(window=5, global_tokens=2)))),
        "blocks": ("blocks of 4: the query's own and the one before, every 3rd, and the first",
                   two("local", Pattern(window=2, block=4), "stride and global",
                       seen(Pattern(window=2, stride=3, global_tokens=1, block=4)))),
    }


def drawn(title: str, layers: Sequence[Layer]) -> str:
    """The picture as SVG."""
    size = TOKENS * CELL
    width, height = LEFT + size + 8, TOP + size + 26
    centred = f'fill="{GREY}" text-anchor="middle"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        'role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{title}</title>",
        f'<text x="{LEFT + size // 2}" y="18" {centred}>key</text>',
        f'<text transform="translate(20 {TOP + size // 2}) rotate(-90)" {centred}>query</text>',
    ]
    hidden = ~torch.stack([layer.cells for layer in layers]).any(0)
    dots = "".join(f"M{LEFT + CELL * j + CELL // 2 - 1} {TOP + CELL * i + CELL // 2 - 1}h2v2h-2z"
                   for i, j in hidden.nonzero().tolist())
    if dots:
        parts.append(f'<path d="{dots}" fill="{GREY}" fill-opacity="0.45"/>')
    side = CELL - GAP
    at = LEFT
    for layer in layers:
        cells = "".join(f"M{LEFT + CELL * j + GAP // 2} {TOP + CELL * i + GAP // 2}h{side}v{side}h-{side}z"
                        for i, j in layer.cells.nonzero().tolist())
        parts.append(f'<path d="{cells}" fill="{layer.colour}"/>')
        if len(layers) > 1:
            y = TOP + size + 9
            parts.append(f'<path d="M{at} {y}h10v10h-10z" fill="{layer.colour}"/>'
                         f'<text x="{at + 15}" y="{y + 9}" fill="{GREY}">{layer.label}</text>')
            at += 30 + 7 * len(layer.label)
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write all pictures."""
    for name, (title, layers) in pictures().items():
        (FOLDER / f"mask-{name}.svg").write_text(drawn(title, layers), encoding="utf-8")


if __name__ == "__main__":
    main()
