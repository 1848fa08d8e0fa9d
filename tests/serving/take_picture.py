"""Takes the pictures of the chat page for the book: `python take_picture.py URL FOLDER [QUESTION]`.

The page at URL must run and need no key. Writes chat.png (desktop), chat-dark.png and chat-mobile.png.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
VIEWS = {"chat": (1280, 820, "light"), "chat-dark": (1280, 820, "dark"), "chat-mobile": (390, 844, "light")}


def main(url: str, folder: Path, question: str) -> None:
    with sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, (width, height, scheme) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(url)
            page.locator("#message").wait_for()
            if width > 600:
                page.get_by_role("button", name="Settings", exact=True).click()
            page.locator("#seed").evaluate("e => { e.value = 7; e.dispatchEvent(new Event('input')); }")
            page.wait_for_timeout(500)
            page.locator("#message").fill(question)
            page.locator("#message").press("Enter")
            page.locator(".measure").wait_for(timeout=300_000)
            page.wait_for_timeout(500)
            page.screenshot(path=folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else (
        "What does this Python function do?\n\ndef read_text(path):\n    with open(path) as file:\n"
        "        return file.read()"))
