"""Takes a picture of the console of a running Oliveira, such as the one in the README.

    python console/screenshot.py http://127.0.0.1:8000 KEY docs/console.png
    python console/screenshot.py URL KEY phone.png --language pt-BR --dark --width 390 --height 844

It waits `--seconds` first, so that the live lines have something to show. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture of the console.")
    parser.add_argument("url", help="address of the server, without /console/")
    parser.add_argument("key", help="an admin key")
    parser.add_argument("out", type=Path)
    parser.add_argument("--language", choices=("en", "pt-BR"), default="en")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--full", action="store_true", help="the whole page, not only what fits")
    parser.add_argument("--ask", help="send this to the chat first")
    parser.add_argument("--stage", help="choose this box of the loop: collect, train, optimise …")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("console/screenshot.py: chromium is not on the PATH. Install it.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": given.width, "height": given.height},
            locale=given.language,
            color_scheme="dark" if given.dark else "light",
        )
        page.goto(f"{given.url}/console/?key={quote(given.key)}")
        page.locator("[data-stage]").first.wait_for()
        if given.ask:
            page.locator(".chat textarea").fill(given.ask)
            page.keyboard.press("Enter")
        if given.stage:
            page.locator(f"[data-stage={given.stage}]").click()
        page.wait_for_timeout(1000 * given.seconds)
        page.screenshot(path=given.out, full_page=given.full)
        browser.close()


if __name__ == "__main__":
    main()
