from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.shared import HANG

pytestmark = [pytest.mark.browser, pytest.mark.slow]
KEY = "a-long-secret-key"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
ATTACK = ("<img src=x onerror=\"window.hacked=1\"> <script>window.hacked=1</script> "
          "[click](javascript:window.hacked=1) "
          "![picture](http://example.invalid/a.png)\n\n```html\n<img src=x onerror=\"window.hacked=1\">\n```\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is missing; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page and, at the end, checks that it spoke to no other host and that no script of it failed."""
    contexts, hosts, faults = [], set(), []

    def go(running: Any, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 760}} | options)
        contexts.append((context, urlsplit(running.url).netloc))
        page = context.new_page()
        page.set_default_timeout(1000 * HANG)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" and "401" not in m.text else None)
        page.goto(running.url)
        return page

    go.faults = faults  # type: ignore[attr-defined]
    yield go
    for context, _ in contexts:
        context.close()
    assert hosts - {""} <= {netloc for _, netloc in contexts}
    assert not faults


def ask(page: Any, question: str) -> None:
    page.locator("#message").fill(question)
    page.keyboard.press("Enter")


def settled(page: Any, number: int = 1) -> None:
    page.wait_for_function(
        f"document.querySelectorAll('.measure').length === {number} && !document.querySelector('.busy')")


def test_ask_stream_stop_and_answer_again(scripted: Any, visit: Any) -> None:
    running = scripted(page=True, delay=0.02, hold=60)
    page = visit(running)
    page.get_by_text("What shall we write?").wait_for()
    assert "tiny" in page.locator(".model-name").inner_text()
    assert "parameters" in page.locator(".model-size").inner_text()
    page.locator("#message").fill("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    page.locator(".answer.writing").wait_for()
    assert "second line" in page.locator(".bubble").inner_text()
    page.wait_for_function("document.querySelector('.prose').innerText.length > 20")  # while it goes on: streaming
    assert running.metric("requests_running") == 1
    page.keyboard.press("Escape")
    running.wait_until(lambda: running.metric("requests_running") == 0)  # the engine is really free
    settled(page)
    assert "stopped" in page.locator(".measure").inner_text()
    page.get_by_role("button", name="Answer again").click()
    page.locator(".answer.writing").wait_for()
    page.get_by_role("button", name="Stop the answer").click()
    settled(page)
    assert page.locator(".count").inner_text() == "2/2"
    page.get_by_role("button", name="Previous answer").click()
    page.wait_for_function("document.querySelector('.count').innerText === '1/2'")
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What shall we write?").wait_for()
    assert page.locator(".turn").count() == 0


def test_a_finished_answer_is_measured_rated_edited_and_copied(scripted: Any, visit: Any) -> None:
    running = scripted(answer="Return the text of the file.", page=True, delay=0.01)
    page = visit(running, permissions=["clipboard-read", "clipboard-write"])
    page.locator(".example").first.click()
    settled(page)
    measure = page.locator(".measure").inner_text()
    assert "tokens ·" in measure
    assert "tokens/s" in measure
    page.get_by_role("button", name="Good answer").click()
    page.locator(".chosen").wait_for()
    page.get_by_role("button", name="Bad answer").click()
    page.locator("[aria-label^='Bad answer'].chosen").wait_for()
    rows = [json.loads(line) for line in (running.state_dir / "feedback.jsonl").read_text().splitlines()]
    assert [row["rating"] for row in rows] == [1, -1]
    assert rows[0]["answer_id"] == rows[1]["answer_id"]
    assert rows[0]["answer"] == "Return the text of the file."
    assert rows[0]["messages"][-1]["role"] == "user"
    page.get_by_role("button", name="Copy this answer").click()
    page.locator(".toast").filter(has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "Return the text of the file."
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit this message").click()
    page.get_by_label("Edit your message").fill("Something else")
    page.get_by_label("Edit your message").press("Enter")
    page.wait_for_function("document.querySelector('.bubble')?.innerText === 'Something else'")
    settled(page)
    assert page.locator(".turn").count() == 1


def test_what_the_model_says_cannot_act(scripted: Any, visit: Any) -> None:
    page = visit(scripted(answer=ATTACK, page=True))
    ask(page, "<img src=x onerror=\"window.hacked=1\">")
    settled(page)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked === undefined")
    assert page.locator(".log img, .log script").count() == 0
    assert "<img src=x" in page.locator(".prose").inner_text()
    # The last wall alone: even markup put into the page past both sanitisers does not run.
    blocked = page.evaluate("""async () => {
        const seen = new Promise(done => document.addEventListener(
            'securitypolicyviolation', e => done(e.effectiveDirective)));
        document.querySelector('.log').insertAdjacentHTML('beforeend', '<i onclick="window.hacked=1">x</i>');
        document.querySelector('.log i').click();
        return seen;
    }""")
    assert blocked == "script-src-attr"
    assert [fault for fault in visit.faults if "Content Security Policy" not in fault] == []
    visit.faults.clear()
    assert page.evaluate("window.hacked === undefined")


def test_closing_the_tab_frees_the_engine(scripted: Any, visit: Any) -> None:
    running = scripted(page=True, hold=5)
    page = visit(running)
    ask(page, "x")
    page.locator(".answer.writing").wait_for()
    assert running.metric("requests_running") == 1
    page.close()
    running.wait_until(lambda: running.metric("requests_running") == 0)


def test_settings_reach_the_model_and_the_theme_stays(scripted: Any, visit: Any) -> None:
    running = scripted(answer="word " * 100, page=True)
    page = visit(running)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#max_tokens").fill("7")
    page.locator("#seed").fill("11")
    page.locator("#system").fill("Be brief.")
    page.locator("output").get_by_text("7", exact=True).wait_for()
    ask(page, "x")
    settled(page)
    shown = {name: page.locator(name).input_value() for name in ("#max_tokens", "#seed", "#system", "#temperature")}
    assert shown == {"#max_tokens": "7", "#seed": "11", "#system": "Be brief.", "#temperature": "0.7"}
    page.get_by_role("button", name="Close the settings").click()  # it stayed open while the page changed
    page.locator("#system").wait_for(state="hidden")
    assert page.locator(".measure").inner_text().startswith("7 tokens")
    assert "length limit" in page.locator(".measure").inner_text()
    page.get_by_role("button", name="Good answer").click()
    page.locator(".chosen").wait_for()
    row = json.loads((running.state_dir / "feedback.jsonl").read_text())
    assert row["seed"] == 11
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    page.locator("#message").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == {"light": "dark", "dark": "light"}[theme]


def test_a_key_is_asked_for(scripted: Any, visit: Any) -> None:
    running = scripted(answer="Hello.", page=True, keys=[KEY])
    page = visit(running)
    page.get_by_label("API key").fill("not-the-right-key")
    page.keyboard.press("Enter")
    page.get_by_text("not known here").wait_for()
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator("#message").wait_for()
    ask(page, "x")
    settled(page)
    assert page.locator(".prose").inner_text() == "Hello."


def test_every_control_has_a_name_and_a_phone_needs_no_sideways_scrolling(scripted: Any, visit: Any) -> None:
    answer = "```python\n" + "x = " + "1 + " * 80 + "1\n```\n" + "long" * 60
    page = visit(scripted(answer=answer, page=True), viewport={"width": 360, "height": 700})
    ask(page, "y" * 300)
    settled(page)
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea')].filter(
        e => !(e.ariaLabel || e.labels?.length || e.innerText.trim())).map(e => e.outerHTML)""")
    assert nameless == []
    wide = page.evaluate("""() => [...document.querySelectorAll('.app *')].filter(e => !e.closest('pre, .panel')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className)""")
    assert wide == []


def test_reloading_the_page_keeps_the_conversation(scripted: Any, visit: Any) -> None:
    running = scripted(page=True)
    page = visit(running)
    ask(page, "Remember this")
    settled(page)
    answer = page.locator(".answer .prose").inner_text()
    page.reload()
    page.get_by_text("Remember this").wait_for()
    settled(page)
    assert page.locator(".answer .prose").inner_text() == answer
    ask(page, "And this")
    settled(page, 2)
    page.get_by_role("button", name="New chat").click()
    page.reload()
    page.get_by_text("What shall we write?").wait_for()
    assert page.locator("article.turn").count() == 0
