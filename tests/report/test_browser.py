"""The page in headless Chromium: figures, themes, phones, keyboards, and that nothing is loaded or run but ours."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ropo.comparison.results import ComparisonResult
from ropo.report import write_page
from tests.report.made import HOSTILE, hostile_result, make_result

FIGURES = 12
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no Chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert selenium.__version__
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(180)  # `draw_all` itself waits up to 80 s; beside another test process 60 were too few
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write(make_result(), tmp_path_factory.mktemp("page"))


def write(result: ComparisonResult, folder: Path) -> Path:
    write_page(result, folder / "report.html")
    return folder / "report.html"


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a page at a width, in the theme of a system."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    # On a busy machine `get` may come back while the page is still read: hidden figures then count as in sight.
    ready = "document.readyState === 'complete' && location.protocol === 'file:'"
    WebDriverWait(browser, 60).until(lambda browser: run(browser, ready))


def draw_all(browser: Any) -> int:
    """Scroll through the page until every figure in sight is drawn, and count them."""
    return browser.execute_async_script("""
        const done = arguments[0], boxes = [...document.querySelectorAll(".plot")].filter((box) => box.offsetParent);
        (async () => {
          for (const box of boxes) {
            box.scrollIntoView();
            for (let wait = 0; wait < 200 && !box.querySelector(".main-svg"); wait++)
              await new Promise((go) => setTimeout(go, 50));
          }
          done(boxes.filter((box) => box.querySelector(".main-svg .trace, .main-svg .scatterlayer")).length);
        })();
    """)


def run(browser: Any, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def requests(browser: Any) -> list[str]:
    """Return every address that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_all_figures_are_drawn_from_the_one_file(browser, page, width, scheme):
    show(browser, page, width, scheme)
    assert draw_all(browser) == FIGURES
    assert run(browser, "document.documentElement.scrollWidth") <= width
    background = run(browser, "getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]


def test_no_text_of_a_figure_is_cut_on_a_phone(browser, tmp_path):
    """In every state of every figure, with names and meanings as long as real ones."""
    long = write(named_at_length(make_result(("one",))), tmp_path)
    show(browser, long, 390)
    assert draw_all(browser) == FIGURES
    texts, cut = browser.execute_async_script("""
        const done = arguments[0], cut = [];
        let texts = 0;
        (async () => {
          for (const box of document.querySelectorAll(".plot")) {
            const select = box.parentElement.querySelector("select");
            for (let state = 0; state < (select?.options.length ?? 1); state++) {
              if (select) select.selectedIndex = state;
              draw(box);
              await new Promise((go) => setTimeout(go, 50));  // plotly makes room for titles in a second turn
              const frame = box.getBoundingClientRect();
              for (const text of box.querySelectorAll("text")) {
                const place = text.getBoundingClientRect();
                const across = Math.max(frame.left - place.left, place.right - frame.right);
                const along = Math.max(frame.top - place.top, place.bottom - frame.bottom);
                texts += 1;
                if (Math.max(across, along) > 1) cut.push([box.id, state, text.textContent, across, along]);
              }
            }
          }
          done([texts, cut]);
        })();
    """)
    assert texts > 500
    assert cut == []


def named_at_length(result: ComparisonResult) -> ComparisonResult:
    """Return a result with a method and meanings of metrics that are as long as real ones."""
    text = result.model_dump_json().replace("LoRA", "RoPO without magnitude")
    meaning = "mean number of tokens of the answers that end by themselves, before the longest answer"
    return ComparisonResult.model_validate_json(re.sub(r'"meaning":"[^"]*"', f'"meaning":"{meaning}"', text))


def test_a_printed_page_has_every_figure(browser, page):
    show(browser, page)
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert run(browser, "document.querySelectorAll('.plot .main-svg .trace').length") >= FIGURES


def test_the_theme_can_be_chosen_and_figures_follow(browser, page):
    show(browser, page)
    draw_all(browser)
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    before = run(browser, ink)
    button = browser.find_element("id", "theme")
    for text in ("Theme: light", "Theme: dark"):
        browser.execute_script("arguments[0].click()", button)
        assert button.text == text
    assert run(browser, "getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert run(browser, ink) != before


def test_methods_seed_and_data_are_chosen_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    press(browser, Keys.TAB)  # before anything scrolls: Chromium goes on with tabs from where a script scrolled to
    assert run(browser, "document.activeElement.className") == "skip"
    focused = set()
    for _ in range(60):
        press(browser, Keys.TAB)
        focused.add(
            run(browser, "document.activeElement.name || document.activeElement.id || document.activeElement.tagName")
        )
    assert {"theme", "data", "method", "seed", "SUMMARY", "A"} <= focused
    draw_all(browser)
    assert run(browser, "[...document.querySelectorAll('figure select')].every((each) => each.tabIndex === 0)")
    heads = "[...document.querySelectorAll('#d0 .answer h4')]"
    visible = f"{heads}.filter((each) => each.offsetParent).map((each) => each.textContent)"
    assert any("LoRA, seed 0" in each for each in run(browser, visible))
    assert len(run(browser, visible)) == 5  # the reference and the first finished seed of four methods
    box = browser.find_element("css selector", "input[name=method][value=m2]")
    browser.execute_script("arguments[0].focus()", box)
    press(browser, Keys.SPACE)
    assert not box.is_selected()
    shown = run(browser, visible)
    assert len(shown) == 4
    assert not any("LoRA" in each for each in shown)
    drawn = (
        "document.getElementById('d0-logps').data.filter((trace) => trace.visible).map((trace) => trace.name).join()"
    )
    assert "LoRA" not in run(browser, drawn)
    assert "RoPO, mean" in run(browser, drawn)
    browser.execute_script("arguments[0].focus()", browser.find_element("id", "seed"))
    press(browser, Keys.DOWN, Keys.DOWN)
    assert run(browser, "document.getElementById('seed').value") == "1"
    assert "RoPO, mean" not in run(browser, drawn)
    assert "RoPO, seed 1" in run(browser, drawn)
    assert "reference" in run(browser, drawn.replace("d0-logps", "d0-frontier"))  # which has no seed
    assert sum("seed 1" in each for each in run(browser, visible)) == 2
    browser.execute_script("arguments[0].focus()", browser.find_element("css selector", "input[name=data][value=d0]"))
    press(browser, Keys.RIGHT)
    assert run(browser, "[...document.querySelectorAll('.panel')].map((panel) => panel.hidden)") == [True, False]
    assert draw_all(browser) == FIGURES
    assert browser.get_log("browser") == []


def test_a_figure_switches_and_has_its_numbers_as_a_table(browser, page):
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    draw_all(browser)
    select = "document.getElementById('d0-frontier').parentElement.querySelector('select')"
    browser.execute_script(f"{select}.focus()")
    title = "document.getElementById('d0-frontier').layout.xaxis.title.text"
    before = run(browser, title)
    for _ in range(run(browser, f"{select}.options.length") - 1):
        press(browser, Keys.DOWN)
    assert run(browser, title) != before
    browser.execute_script(
        "document.querySelector('#d0-frontier').parentElement.querySelector('.numbers summary').click()"
    )
    rows = "[...document.querySelectorAll('figure .numbers[open] tbody tr')].length"
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert run(browser, rows) > 5


def test_a_link_opens_what_made_a_number(browser, page):
    show(browser, page)
    link = run(browser, "document.querySelector('#d0 .summary tbody th a').getAttribute('href')")
    assert link.startswith("#run-")
    assert not run(browser, f"document.querySelector('{link}').open")
    browser.execute_script("document.querySelector('#d0 .summary tbody th a').click()")
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert run(browser, f"document.querySelector('{link}').open")


def test_hostile_text_runs_nothing(browser, tmp_path):
    seen = 0
    for number, text in enumerate(HOSTILE):
        if "<" not in text and "on" not in text:
            continue  # only what could run
        folder = tmp_path / str(number)
        folder.mkdir()
        page = write(hostile_result(text), folder)
        show(browser, page, 390)
        browser.execute_script("window.alert = () => (document.title = 'HACKED')")
        assert draw_all(browser) == FIGURES
        assert run(browser, "document.title") != "HACKED"
        assert (
            run(browser, "document.querySelectorAll('img, [onload], [onerror], [onfocus], [onmouseover]').length") == 0
        )
        assert run(browser, "document.documentElement.scrollWidth") <= 390
        assert browser.get_log("browser") == []
        assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]
        seen += 1
    assert seen >= 6


def test_the_policy_stops_a_script_that_got_in(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    html = page.read_text(encoding="utf-8")
    evil = "<script>document.title = 'HACKED'</script><img src='http://127.0.0.1:9/x.png'>"
    broken.write_text(html.replace("<main", evil + "<main", 1), encoding="utf-8")
    show(browser, broken)
    assert run(browser, "document.title") == "Made up"
    refused = [
        entry["message"] for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]
    ]
    assert len(refused) == 2
