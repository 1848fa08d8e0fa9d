"""Draw what pretraining on a CPU costs from the stored result: `python docs/draw_pretrain_cpu.py` writes
docs/images/pretrain-cpu.svg and prints the tables of docs/training-speed.md (benchmarks/pretrain_cpu.py measures them;
tests/training/test_speed_page.py checks that picture and tables are its).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGE = Path(__file__).parent / "images" / "pretrain-cpu.svg"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
KINDS = {"avx512": "pretrain_cpu.json", "amx": "pretrain_cpu-amx.json"}
"""By what products were made with."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, BETWEEN, RIGHT = 640, 250, 56, 34, 42, 70, 20
LABEL = 38
"""Room for a label below an axis."""
BLUE, ORANGE, GREY = "#3b82f6", "#f59e0b", "#7d8590"
"""Of middle lightness: they stand out on white and on black."""
LINES = (("ours", BLUE, "seconds_a_million_tokens"), ("transformers, bf16", ORANGE, "theirs"))


def result(kind: str) -> dict[str, Any]:
    """What the benchmark stored."""
    return json.loads((RESULTS / KINDS[kind]).read_text("utf-8"))


def short(number: float) -> str:
    """1500000 as 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def panel(left: float, title: str, below: str, places: Sequence[float], rows: Sequence[dict[str, Any]]) -> str:
    """Seconds for a million tokens over sizes, both axes logarithmic."""
    width = (WIDTH - LEFT - BETWEEN - RIGHT) / 2
    floor = HEIGHT - BOTTOM
    values = [row[key] for row in rows for _, _, key in LINES]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(min(places)), math.log10(max(places))

    def x(place: float) -> float:
        return left + width * (math.log10(place) - first) / (last - first)

    def y(value: float) -> float:
        return floor - (floor - TOP) * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="{left:.1f}" y="14" fill="{GREY}" font-weight="600">{title}</text>']
    for power in range(low, high + 1):
        at = y(10.0 ** power)
        parts.append(f'<path d="M{left:.1f} {at:.1f}h{width:.1f}" stroke="{GREY}" stroke-opacity="0.25"/>'
                     f'<text x="{left - 6:.1f}" y="{at + 4:.1f}" fill="{GREY}" text-anchor="end">{short(10 ** power)}'
                     "</text>")
    taken = -math.inf  # up to where the first line of labels reaches
    for place in places:
        lower = x(place) - taken < LABEL
        taken = taken if lower else x(place)
        label = f"{place:,}" if place < 10_000 else short(place)
        parts.append(f'<text x="{x(place):.1f}" y="{floor + (29 if lower else 16)}" fill="{GREY}" '
                     f'text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{left + width / 2:.1f}" y="{floor + 34}" fill="{GREY}" text-anchor="middle">{below}</text>')
    for number, (label, colour, key) in enumerate(LINES):
        dots = [(x(place), y(row[key])) for place, row in zip(places, rows, strict=True)]
        parts.append(f'<path d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in dots)}" fill="none" stroke="{colour}" '
                     'stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in dots]
        at = left + 8 + 56 * number
        parts.append(f'<circle cx="{at:.1f}" cy="25" r="3" fill="{colour}"/><text x="{at + 7:.1f}" y="29" '
                     f'fill="{GREY}">{label}</text>')
    return "\n".join(parts)


def picture() -> str:
    """Seconds for a million tokens by size of model and by context, as SVG."""
    rows = result("amx")["scale"]
    sizes, contexts = ([row for row in rows if row["axis"] == axis] for axis in ("size", "context"))
    second = LEFT + (WIDTH - LEFT - BETWEEN - RIGHT) / 2 + BETWEEN
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" font-family="system-ui, sans-serif" font-size="12">',
        "<title>Seconds for a million tokens by the size of the model and by its context, on two cores</title>",
        panel(LEFT, "seconds for a million tokens", "parameters", [row["parameters"] for row in sizes], sizes),
        panel(second, "seconds for a million tokens", "context", [row["context"] for row in contexts], contexts),
        "</svg>", ""])


def speeds(kind: str) -> str:
    """Tokens a second and ratios, as Markdown."""
    lines = ["| shape | setting | tokens/s | share of the bf16 matmul rate | ours is faster by (smallest to largest) |",
             "|---|---|---|---|---|"]
    for row in result(kind)["speed"]:
        if "peer" not in row:
            continue
        peer = row["peer"].replace("hugging face", "transformers")
        times = "" if peer == "ours" else f"{row['ratio']:.2f} ({row['ratios'][0]:.2f} to {row['ratios'][1]:.2f})"
        lines.append(f"| {row['name']} | {peer} | {row['theirs']:,} | {row['share_of_matmul']:.0%} | {times} |")
    return "\n".join(lines)


def costs(kind: str) -> str:
    """What compiling costs, as Markdown."""
    head = ("| | first step as written, s | compiled, s: empty, full cache | later steps: as written, compiled, s | "
            "pays after, s: empty, full cache |")
    lines = [head, "|---|---|---|---|---|"]
    for row in result(kind)["compile"]:
        pays = [f"{found:.0f}" if (found := row[f"break_even_{cache}"]) is not None else "never"
                for cache in ("cold", "warm")]
        lines.append(f"| {row['name'].removeprefix('compile, ')} | {row['eager_first_step']:.1f} | "
                     f"{row['cold_first_step']:.1f}, {row['warm_first_step']:.1f} | {row['eager_later_step']:.2f}, "
                     f"{row['cold_later_step']:.2f} | {pays[0]}, {pays[1]} |")
    return "\n".join(lines)


def shares(kind: str) -> str:
    """Where the time of a step goes, as Markdown."""
    lines = ["| shape | setting | products | attention | the rest | ours is faster by |", "|---|---|---|---|---|---|"]
    for row in result(kind)["where"]:
        peer = row["peer"].replace("hugging face", "transformers")
        times = "" if peer == "ours" else f"{row['ratio']:.2f}"
        lines.append(f"| {row['name'].partition(', ')[2]} | {peer} | {row['products']:.2f} | {row['attention']:.2f} | "
                     f"{row['rest']:.2f} | {times} |")
    return "\n".join(lines)


def losses(kind: str) -> str:
    """bf16 beside fp32, as Markdown."""
    arms = ("bf16", "bf16, without the C++ kernels", "fp32")
    lines = [f"| seed | {' | '.join(arms)} |", "|---|---|---|---|"]
    for row in result(kind)["quality"]:
        if arms[0] in row:
            lines.append(f"| {row['name'].rpartition(' ')[2]} | {' | '.join(f'{row[arm]:.4f}' for arm in arms)} |")
    return "\n".join(lines)


def races(kind: str) -> str:
    """Time to a loss, as Markdown."""
    lines = ["| peer | seconds, ours | theirs | ratio (smallest to largest) | updates, ours | theirs |",
             "|---|---|---|---|---|---|"]
    for row in result(kind)["target"]:
        updates = [", ".join(str(count or "not reached") for count in counts) for counts in row["updates"]]
        lines.append(f"| {row['peer'].replace('hugging face', 'transformers')} | {row['ours']:.0f} | "
                     f"{row['theirs']:.0f} | {row['ratio']:.2f} ({row['ratios'][0]:.2f} to {row['ratios'][1]:.2f}) | "
                     f"{updates[0]} | {updates[1]} |")
    return "\n".join(lines)


TABLES = (speeds, shares, costs, losses, races)


def main() -> None:
    """Write the picture, and say the tables."""
    IMAGE.write_text(picture(), encoding="utf-8")
    print(*(table(kind) for kind in KINDS for table in TABLES), sep="\n\n")


if __name__ == "__main__":
    main()
