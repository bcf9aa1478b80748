"""Promise: the documentation builds without a warning, and reads well in a browser: wide and narrow, light and dark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[2]
HTML = ROOT / "build" / "docs" / "html"
# Where Debian and others put Chromium; playwright brings none of its own.
CHROMIUM = [Path("/usr/bin/chromium"), Path("/usr/bin/chromium-browser"), Path("/usr/bin/google-chrome")]

# Returns what is wrong with how the page is drawn. Text must end inside the window and inside the block that it belongs
# to, unless it is in a box that scrolls. Text that is not drawn has no rectangles.
FAULTS = """
() => {
  const faults = [];
  for (const image of document.images)
    if (image.complete && image.naturalWidth === 0)
      faults.push("broken image " + image.src);
  if (document.documentElement.scrollWidth > window.innerWidth + 1)
    faults.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
  const scrolls = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (!text.data.trim()) continue;
    let box = text.parentElement, inside = false;
    while (box && getComputedStyle(box).display === "inline") box = box.parentElement;
    for (let element = text.parentElement; element && element !== document.body; element = element.parentElement)
      inside ||= scrolls(element);
    if (inside || !box || getComputedStyle(text.parentElement).visibility === "hidden") continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    for (const drawn of range.getClientRects()) {
      if (drawn.width < 2 || drawn.height < 2 || drawn.right < 0) continue;
      const limit = Math.min(window.innerWidth, box.getBoundingClientRect().right);
      if (box.getBoundingClientRect().width > 2 && drawn.right > limit + 2) {
        const excess = Math.round(drawn.right - limit);
        faults.push(`text runs out of its box by ${excess} pixels: ${text.data.trim().slice(0, 50)}`);
        break;
      }
    }
  }
  return faults;
}
"""


@pytest.fixture(scope="module")
def pages() -> list[Path]:
    """Build what is not built yet, and return all pages."""
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-b", "html", str(ROOT / "docs"), str(HTML)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(page for page in HTML.rglob("*.html") if "_static" not in page.parts)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a Chromium without a window."""
    program = next((path for path in CHROMIUM if path.exists()), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        # Without a sandbox, which does not start for root; what is shown are our own files.
        running = started.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        yield running
        running.close()


def test_every_question_and_every_public_name_has_a_page(pages: list[Path]) -> None:
    found = {page.stem for page in pages}
    assert {page.stem for page in (ROOT / "docs" / "gallery").glob("plot_*.py")} <= found
    import fastbn

    assert {f"fastbn.{name}" for name in set(fastbn.__all__) - {"__version__"}} <= found


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<img src="data:image/png;base64,AAAA">', "broken image"),
        ('<div style="width: 3000px">x</div>', "the page is 3"),
        ('<p style="width: 50px; overflow: hidden">unbreakable_and_long</p>', "text runs out of its box"),
        ('<p style="width: 50px; overflow-x: auto">unbreakable_and_long</p>', None),
        ("<p>text that has room</p>", None),
    ],
)
def test_what_is_wrong_is_found(browser: Any, body: str, fault: str | None) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_content(body)
    found = page.evaluate(FAULTS)
    page.close()
    assert len(found) == (fault is not None)
    assert fault is None or found[0].startswith(fault)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_drawn_without_a_fault(pages: list[Path], browser: Any, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    # Images below the window are loaded too, so that they can be found broken.
    context.add_init_script(
        "document.addEventListener('DOMContentLoaded', () => "
        "document.querySelectorAll('img').forEach(image => image.loading = 'eager'))"
    )
    page, faults, errors = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in pages:
        page.goto(path.as_uri())
        found = [*errors, *page.evaluate(FAULTS)]
        if page.evaluate("document.documentElement.dataset.theme") != scheme:
            found.append(f"not {scheme}")
        faults += [f"{path.relative_to(HTML)}: {fault}" for fault in found]
        errors.clear()
    context.close()
    assert not faults, "\n".join(faults)
