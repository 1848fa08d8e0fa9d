"""Draw what the data stage costs by size from the stored result: `python docs/draw_data_size.py` writes
docs/images/data-size.svg and prints the tables of docs/data/cost.md (benchmarks/data_size.py measures them;
tests/data/test_cost_page.py checks that picture and tables are its).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGE = Path(__file__).parent / "images" / "data-size.svg"
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "data_size.json"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, BETWEEN = 640, 240, 52, 30, 40, 70
BLUE, ORANGE, GREY = "#3b82f6", "#f59e0b", "#7d8590"
"""Of middle lightness: they stand out on white and on black."""


def result() -> dict[str, Any]:
    """What the benchmark stored."""
    return json.loads(RESULT.read_text("utf-8"))


def panel(left: float, title: str, sizes: Sequence[float], lines: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """One chart: values (each at least 0) over sizes in GB, both axes from 0."""
    width = (WIDTH - LEFT - BETWEEN - 12) / 2
    floor, top, right = HEIGHT - BOTTOM, max(max(values) for _, _, values in lines) * 1.1, max(sizes)

    def x(size: float) -> float:
        return left + width * size / right

    def y(value: float) -> float:
        return floor - (floor - TOP) * value / top

    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000) if top / step <= 6)
    parts = [f'<text x="{left:.1f}" y="16" fill="{GREY}" font-weight="600">{title}</text>']
    for tick in range(0, int(top) + 1, step):
        parts.append(f'<path d="M{left:.1f} {y(tick):.1f}h{width:.1f}" stroke="{GREY}" stroke-opacity="0.25"/>'
                     f'<text x="{left - 6:.1f}" y="{y(tick) + 4:.1f}" fill="{GREY}" text-anchor="end">{tick}</text>')
    for tick in (0.0, 0.5, 1.0, 1.5, 2.0):
        parts.append(f'<text x="{x(tick):.1f}" y="{floor + 16}" fill="{GREY}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{left + width / 2:.1f}" y="{floor + 32}" fill="{GREY}" text-anchor="middle">GB</text>')
    for number, (label, colour, values) in enumerate(lines):
        places = [(x(size), y(value)) for size, value in zip(sizes, values, strict=True)]
        points = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        parts.append(f'<path d="M{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places]
        if len(lines) > 1:
            at = left + 110 + 60 * number
            parts.append(f'<circle cx="{at:.1f}" cy="12" r="3" fill="{colour}"/>'
                         f'<text x="{at + 8:.1f}" y="16" fill="{GREY}">{label}</text>')
    return "\n".join(parts)


def picture() -> str:
    """Seconds and memory by size, as SVG."""
    rows = result()["rows"]
    sizes = [row["stored_bytes"] / 1e9 for row in rows]
    second = LEFT + (WIDTH - LEFT - BETWEEN - 12) / 2 + BETWEEN
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" font-family="system-ui, sans-serif" font-size="12">',
        "<title>CPU seconds and memory of the data stage by the size of its input</title>",
        panel(LEFT, "CPU seconds", sizes, [("", BLUE, [row["cpu_seconds"] for row in rows])]),
        panel(second, "memory, MB", sizes, [("stage", BLUE, [row["main_mb"] for row in rows]),
                                            ("a worker", ORANGE, [row["worker_mb"] for row in rows])]),
        "</svg>", ""])


def table() -> str:
    """What was measured, as Markdown."""
    lines = ["| input, MB | documents kept | CPU s | CPU s a GB | stage, MB | a worker, MB | disk, MB |",
             "|---|---|---|---|---|---|---|"]
    for row in result()["rows"]:
        lines.append(f"| {row['megabytes']:,} | {row['documents']:,} | {row['cpu_seconds']:.0f} | "
                     f"{row['cpu_seconds_per_gb']:.0f} | {row['main_mb']:.0f} | {row['worker_mb']:.0f} | "
                     f"{row['disk_mb']:,.0f} |")
    return "\n".join(lines)


def estimate() -> str:
    """What ten terabytes would take, as Markdown."""
    found = result()["estimate"]
    lines = [f"| machines of {found['cores_a_machine']} cores | days |", "|---|---|"]
    lines += [f"| {machines} | {days:g} |" for machines, days in found["days_on_machines"].items()]
    return "\n".join(lines)


def main() -> None:
    """Write the picture, and say the tables."""
    IMAGE.write_text(picture(), encoding="utf-8")
    print(table(), estimate(), sep="\n\n")


if __name__ == "__main__":
    main()
