"""The report of a run, on a small fake run that has everything a real one has."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gristmill.core.errors import UserError
from gristmill.pipeline.report import charts, formatting, lineage_graph, summary_text, write_report
from tests.pipeline.fake_run import EVIL, FakeRun

SECTIONS = (
    "headline",
    "timeline",
    "lineage",
    "data",
    "tokenizer",
    "training",
    "predictions",
    "trace",
    "adaptation",
    "evaluation",
    "samples",
    "costs",
    "reproduce",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(tmp_path_factory.mktemp("runs"), evil=EVIL).build()


@pytest.fixture
def run_folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / built.name))


def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._skip = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else data

    def missing(self) -> list[str]:
        return [attrs.get("class", "") or "" for _, attrs in self.tags if attrs.get("class") == "missing"]


def test_a_whole_run_shows_everything(tmp_path: Path) -> None:
    folder = FakeRun(tmp_path).build()
    text = page(folder)
    seen = Reader(text)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert [i for i in ids if i in SECTIONS] == list(SECTIONS)
    assert len(ids) == len(set(ids))
    assert seen.missing() == []
    assert "cannot be shown" not in text
    assert len(text) < 1_000_000
    for said in (
        "9 min 1 s",
        "7.34 M",
        "base is better than 5-gram",
        "Return the text of the file.",
        "xz 1.51",
        "1.874",
        "paired sign flips",
        "def is_empty",
        "3.41",
        "ffffffffffff",
        "Gradient norm",
        "38 % → 40 %, p = 0.31",
    ):
        assert said in seen.text, said
    charts_ = [attrs for _, attrs in seen.tags if "data-chart" in attrs]
    assert len(charts_) >= 12
    for chart in charts_:
        assert chart["role"] == "img"
        assert chart["aria-label"]
        assert json.loads(chart["data-chart"] or "")["series"]


def test_a_model_with_experts_shows_their_load(run_folder: Path) -> None:
    assert "Load of experts" not in page(run_folder)
    trace = run_folder / "artifacts" / "base@1" / "trace.jsonl"
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    for number, record in enumerate(records):
        record |= {"router_max_load": 4 - 2.9 * number / len(records), "router_min_load": 0.9}
    trace.write_text("".join(json.dumps(record) + "\n" for record in records))
    labels = [attrs["aria-label"] or "" for _, attrs in Reader(page(run_folder)).tags if "data-chart" in attrs]
    expected = re.compile(r"Load of experts: busiest goes from (4|3\.9\d*) to 1\.1\d*, .*; even 1$")
    assert any(expected.match(label) for label in labels), labels
    assert not any("Dropped" in label for label in labels)
    trace.write_text("".join(json.dumps({**record, "router_dropped": 0.02}) + "\n" for record in records))
    assert "Dropped choices: dropped choices goes from 0.02" in page(run_folder)


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first
    assert b"2026-05-04 10:09 UTC" in first


def test_text_from_data_and_models_is_never_markup(run_folder: Path) -> None:
    text = page(run_folder)
    assert "&lt;script&gt;document.title" in text
    assert "<script>document" not in text
    assert "<img" not in text
    seen = Reader(text)
    assert EVIL in seen.text
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert not [attrs for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert "\x00" not in text
    text.encode("utf-8")


def test_nothing_on_the_page_leads_to_a_network(run_folder: Path) -> None:
    text = page(run_folder)
    seen = Reader(text)
    policy = next(
        a["content"] for t, a in seen.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in (policy or "")
    assert "'unsafe-inline'" not in (policy or "").split("style-src")[0]
    links = [a[name] or "" for _, a in seen.tags for name in ("href", "src", "action", "data") if name in a]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)


@pytest.mark.parametrize(
    ("gone", "section", "line"),
    [
        ("artifacts/corpus@1/funnel.json", "data", "funnel.json"),
        ("artifacts/corpus@1/examples.json", "data", "examples.json"),
        ("cache", "tokenizer", "no longer in the cache"),
        ("artifacts/tokenizer@1", "tokenizer", "No tokenizer was trained"),
        ("artifacts/base@1/evaluations.jsonl", "trace", "prediction trace"),
        ("artifacts/scores@1/results.json", "evaluation", "No evaluation has finished"),
        ("artifacts/scores@1/results.json", "samples", "samples"),
        ("artifacts/scores@1/results.json", "training", "baselines"),
        ("recipe.yaml", "reproduce", "recipe.yaml"),
    ],
)
def test_what_is_missing_is_said_in_one_line(run_folder: Path, gone: str, section: str, line: str) -> None:
    path = run_folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = page(run_folder)
    part = text[text.index(f'id="{section}"') :]
    said = re.findall(r'class="missing">([^<]*)<', part[: part.index("</section>")])
    assert any(line in entry for entry in said), said
    assert "cannot be shown" not in text


@pytest.mark.parametrize(
    ("name", "content", "section"),
    [
        ("artifacts/corpus@1/funnel.json", "{", "data"),
        ("artifacts/corpus@1/funnel.json", '{"phases": 3}', "data"),
        ("artifacts/scores@1/results.json", '{"tasks": [1]}', "evaluation"),
        ("artifacts/base@1/plan.json", "[1]", "training"),
    ],
)
def test_a_broken_file_costs_one_section(run_folder: Path, name: str, content: str, section: str) -> None:
    (run_folder / name).write_text(content)
    text = page(run_folder)
    assert "cannot be shown" in text[text.index(f'id="{section}"') :]
    assert 'id="reproduce"' in text
    assert "The recipe as it ran" in text


def test_an_unfinished_run_has_a_report_too(run_folder: Path) -> None:
    state = json.loads((run_folder / "run.json").read_text())
    for entry in state["stages"][3:]:
        entry.update(version=None, state="waiting")
        shutil.rmtree(run_folder / "artifacts" / f"{entry['name']}@1")
    state["stages"][3].update(state="failed", error="the loss is not finite <b>")
    (run_folder / "run.json").write_text(json.dumps(state))
    text = page(run_folder)
    assert "This run is not complete" in text
    assert "the loss is not finite &lt;b&gt;" in text
    assert "Prediction trace" in text


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "empty" / "artifacts").mkdir(parents=True)
    text = page(tmp_path / "empty")
    assert all(f'id="{section}"' in text for section in SECTIONS)
    assert "cannot be shown" not in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        write_report(tmp_path)


def test_the_summary_says_what_comes_next(run_folder: Path) -> None:
    before = summary_text(run_folder)
    assert "gristmill report quickstart" in before
    path = write_report(run_folder)
    said = summary_text(run_folder)
    assert str(path) in said
    assert f"gristmill serve quickstart/release@1 --runs-dir {run_folder.parent}" in said
    assert "  + base" in said
    assert "  - aligned" in said
    assert "Return the text of the file." in said


def test_a_summary_carries_no_control_characters(run_folder: Path) -> None:
    path = run_folder / "artifacts/scores@1/results.json"
    results = json.loads(path.read_text())
    results["samples"] = [{"prompt": "x", "outputs": {"m": "\x1b[2Jgone\x07"}}]
    path.write_text(json.dumps(results))
    assert "\x1b" not in summary_text(run_folder)
    assert "gone" in summary_text(run_folder)


def test_what_cannot_be_seen_in_a_token_is_shown() -> None:
    assert formatting.visible(" a\n") == [("·", True), ("a", False), ("↵", True)]
    assert formatting.visible("\u202e\x1b") == [("\\u202e\\u001b", True)]
    assert formatting.visible(" " * 30 + "x") == [("·×30", True), ("x", False)]
    assert formatting.visible("-" * 9) == [("-", False), ("×9", True)]


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(charts.Scale(0, 620), 5) == [0, 200, 400, 600]
    assert charts.ticks(charts.Scale(1.47, 1.93), 4) == [1.6, 1.8]
    assert charts.ticks(charts.Scale(1, 8000, True), 5) == [1, 10, 100, 1000]
    for low, high in ((0.0, 1e-9), (-3.0, 5e6), (0.5, 0.5001)):
        assert all(low <= t <= high for t in charts.ticks(charts.Scale(low, high), 5))


def test_a_long_series_keeps_its_mean_and_a_broken_one_its_good_values() -> None:
    made = charts.average([(i, float(i % 7)) for i in range(5000)], 240)
    assert len(made) == 240
    assert np.mean([y for _, y in made]) == pytest.approx(np.mean([i % 7 for i in range(5000)]), rel=1e-3)
    chart = charts.line_chart("t", [charts.Series("s", [1, 2, 3], [1.0, math.nan, 3.0])])
    assert chart is not None
    assert json.loads(chart.data)["series"][0]["points"] == [[1, 1], [3, 3]]
    assert [t.text for t in chart.x_ticks] == ["1", "2", "3"]
    assert charts.line_chart("t", [charts.Series("s", [], [])]) is None


def test_the_graph_is_layered_and_long_edges_go_round_boxes() -> None:
    nodes = [lineage_graph.Node(k, "model", k, "") for k in "abcd"]
    graph = lineage_graph.draw(nodes, [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    at = {box.node.key: box for box in graph.boxes}
    assert at["a"].x < at["b"].x < at["c"].x < at["d"].x
    lanes = [float(d.split()[1].split("h")[0]) for d in graph.edges if re.fullmatch(r"M\d+ \d+h\d+", d)]
    assert len(lanes) == 2
    for y in lanes:
        assert all(not box.y <= y <= box.y + graph.box_height for box in (at["b"], at["c"]))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_page_in_a_browser(built: Path, width: int, theme: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if chromium is None:
        pytest.skip("no Chromium found (on Debian: apt-get install chromium)")
    report = write_report(built)
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=quiet)
        try:
            view = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme).new_page()
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(str(error)))
            view.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            view.on("request", lambda request: asked.append(request.url))
            view.goto(report.as_uri())
            assert view.title() == "quickstart: run report"
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            for section in SECTIONS:
                assert view.locator(f"#{section}").is_visible()
            drawn = view.locator("[data-drawn=yes]")
            assert drawn.count() == view.locator("[data-chart]").count() >= 12
            first = view.locator("#training .area").first
            first.scroll_into_view_if_needed()
            assert first.locator("path.line").first.evaluate("p => p.getTotalLength()") > 100
            first.hover()
            assert "training" in view.locator("#tip").inner_text()
            view.keyboard.press("Escape")
            view.locator("#training .plot").first.focus()
            view.keyboard.press("ArrowLeft")
            assert "step" in view.locator("#tip").inner_text()
            view.locator(".guess.right:visible").first.hover()
            assert "the true next token" in view.locator("#tip").inner_text()
        finally:
            browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
