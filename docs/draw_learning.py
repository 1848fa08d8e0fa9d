"""Draw the learning curves of every objective from the stored results: `python docs/draw_learning.py` writes
docs/images/learning-*.svg, and prints the table of docs/objectives.md.

The results are those of benchmarks/learning; tests/objectives/test_learning.py checks that pictures and table are
theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "images"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "learning"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 460, 300, 46, 16, 84, 12
BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b82f6", "#f59e0b", "#10b981", "#a855f7", "#7d8590"
"""Of middle lightness: they stand out on white and on black."""
STYLES = {  # what it is called, its colour, its width, its dashes
    "theirs": ("transformers", ORANGE, 4, ""),
    "ours_from_their_weights": ("ours from its weights", GREEN, 1.5, "5 4"),
    "ours": ("ours", BLUE, 2, ""),
    "ours_fine": ("ours, fine experts", PURPLE, 2, ""),
    "ours_dense": ("ours, dense", GREY, 2, ""),
}
SMOOTH = 10
"""Every point is the mean of so many steps."""


def results() -> dict[str, dict[str, Any]]:
    """Stored results by kind."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def means(curve: Sequence[float]) -> list[tuple[float, float]]:
    """(step, nats) of each stretch of SMOOTH steps."""
    parts = [(start, curve[start:start + SMOOTH]) for start in range(0, len(curve), SMOOTH)]
    return [(start + len(part) / 2, sum(part) / len(part)) for start, part in parts]


def drawn(result: Mapping[str, Any]) -> str:
    """The picture of one contest as SVG."""
    curves = {name: means(result["curves"][name]) for name in STYLES if name in result["curves"]}
    values = [nats for curve in curves.values() for _, nats in curve[1:]] + [result["unigram_entropy"]]
    low, high = min(values) - 0.2, max(values) + 0.2

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / result["steps"]

    def y(nats: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(nats, high)) / (high - low)

    grey = f'fill="{GREY}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"',
        'role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{result['kind']}: loss by step</title>",
    ]
    step = 0.5 if high - low < 3.5 else 1.0
    ticks = [number * step for number in range(int(low / step) + 1, int(high / step) + 1)]
    for tick in ticks:
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.25"/>'
                     f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" {grey} text-anchor="end">{tick:g}</text>')
    floor = HEIGHT - BOTTOM
    for at in range(0, result["steps"] + 1, 100):
        parts.append(f'<text x="{x(at):.1f}" y="{floor + 16}" {grey} text-anchor="middle">{at}</text>')
    parts.append(f'<text transform="translate(12 {(TOP + floor) // 2}) rotate(-90)" {grey} '
                 'text-anchor="middle">nats a target</text>')
    entropy = y(result["unigram_entropy"])
    parts.append(f'<path d="M{LEFT} {entropy:.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-width="1.5" '
                 f'stroke-dasharray="2 3"/>')
    labels = [(f"unigram entropy {result['unigram_entropy']:.2f}", GREY, 1.5, "2 3")]
    for name, curve in curves.items():
        label, colour, width, dashes = STYLES[name]
        points = "L".join(f"{x(step):.1f} {y(nats):.1f}" for step, nats in curve)
        parts.append(f'<path d="M{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed(dashes)}/>')
        labels.append((f"{label}: {result['valid_loss'][name]:.2f}", colour, width, dashes))
    for number, (label, colour, width, dashes) in enumerate(labels):
        at, line = LEFT + 205 * (number % 2), floor + 36 + 18 * (number // 2)
        parts.append(f'<path d="M{at} {line - 4}h18" stroke="{colour}" stroke-width="{width}"{dashed(dashes)}/>'
                     f'<text x="{at + 24}" y="{line}" {grey}>{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def dashed(dashes: str) -> str:
    """An attribute, where there are any."""
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def pictures() -> dict[str, str]:
    """Kind -> its picture."""
    return {kind: drawn(result) for kind, result in results().items()}


def table() -> str:
    """Held-out losses, as Markdown."""
    stored = results()
    lines = ["| kind | unigram entropy | transformers | ours, their weights | ours | seconds of ours |",
             "|---|---|---|---|---|---|"]
    for kind in (kind for kind in ORDER if kind in stored):
        result = stored[kind]
        scores = result["valid_loss"]
        twin = scores.get("ours_from_their_weights")
        lines.append(f"| `{kind}` | {result['unigram_entropy']:.3f} | {scores['theirs']:.3f} | "
                     f"{'' if twin is None else f'{twin:.3f}'} | {scores['ours']:.3f} | "
                     f"{result['seconds']['ours']:.0f} |")
    return "\n".join(lines)


ORDER = ("causal_lm", "prefix_lm", "fill_in_the_middle", "multi_token", "masked_lm", "next_sentence", "translation_lm",
         "permutation_lm", "span_corruption", "denoisers", "moe")
"""In which the page has them."""


def main() -> None:
    """Write all pictures, and say the table."""
    for kind, picture in pictures().items():
        (FOLDER / f"learning-{kind}.svg").write_text(picture, encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
