"""What a report shows, in a browser: a real run's page in headless Chromium, which has no network to fetch from."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator.report.page import write
from orchestrator.results.past_run import read_run
from tests.local.test_placement import CONSUMER
from tests.local.test_process import text
from tests.local.test_run_local import QUICK, run, summary_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs the packages chromium and chromium-driver; Ubuntu has them as a snap only"
)

MATRIX = """\
matrix:
  workload.threads: [{x86: reader, arm: reader}, {x86: writer, arm: reader}, {x86: writer, arm: writer}]
  workload.iterations: [1, 4]
"""
Summary = dict[str, Any]
INK_OF_TICKS = """const tick = document.querySelector("#messages .xtick text");
    return tick && getComputedStyle(tick).fill"""
"""Asked in one step: charts that fit themselves to the window draw anew, and an element found before is gone then."""
PATIENCE_S = 60
"""How long the browser may take for a frame, on a machine with much else to do."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("report")
    summary = summary_of(run(folder, QUICK.replace("region: 1MiB", "region: 1MiB, trace: true") + MATRIX, "--json"))
    page = folder / "report.html"
    write([read_run(folder / "results" / summary["run_id"])], page)
    return page, summary


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # It leaves a folder with its socket behind. Paths of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        service = Service(DRIVER, env={**os.environ, "TMPDIR": folder})
        with Chrome(options=options, service=service) as chrome:
            yield chrome


shown: list[tuple[Path, str, int]] = []
"""The page that is open as it was loaded, if there is one: tests that only look need not load it again."""


def show(browser: Chrome, page: Path, scheme: str = "light", width: int = 1280, *, changes: bool = False) -> None:
    """Open the page. A test that `changes` it, or the browser, has one of its own."""
    if not changes and shown == [(page, scheme, width)]:
        return
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == ""
    shown[:] = [] if changes else [(page, scheme, width)]


def logged(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    """What has come to this log since it was read last."""
    found: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return found


def contrast(one: str, two: str) -> float:
    """Of two colours, as WCAG 2 has it: from 1 to 21."""

    def luminance(colour: str) -> float:
        found = re.fullmatch(r"#(..)(..)(..)", colour)
        assert found, colour
        parts = [int(part, 16) / 255 for part in found.groups()]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def variable(browser: Chrome, name: str) -> str:
    script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    return str(browser.execute_script(script, f"--{name}"))


def test_it_opens_without_a_request_and_without_a_complaint(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0])
    asked = [
        message["params"]["request"]["url"]
        for entry in logged(browser, "performance")
        for message in [json.loads(entry["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [entry["message"] for entry in logged(browser, "browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_the_outcome_is_the_first_thing_seen(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0])
    heading = browser.find_element(By.TAG_NAME, "h1")
    assert heading.text.split() == ["✓", "Passed"]
    assert heading.location["y"] < 100
    assert "6 of 6 passed" in browser.find_element(By.CLASS_NAME, "verdict").text


def test_the_lines_that_are_drawn_are_the_messages_of_the_run(ran: tuple[Path, Summary], browser: Chrome) -> None:
    page, summary = ran
    show(browser, page)
    panels = browser.find_elements(By.CSS_SELECTOR, "#messages .panel")
    assert [panel.find_element(By.TAG_NAME, "h3").text for panel in panels] == [
        "R,R, 4 pages", "R,W, 4 pages", "W,W, 4 pages"
    ]  # fmt: skip
    for panel, points in zip(panels, (summary["points"][index : index + 2] for index in (0, 2, 4)), strict=True):
        plot = panel.find_element(By.CLASS_NAME, "plot")
        drawn = browser.execute_script("return arguments[0].data.map((t) => [t.name, t.x, t.y])", plot)
        assert drawn[0] == ["all messages", [1, 4], [point["messages_total"] for point in points]]
        lines = plot.find_elements(By.CSS_SELECTOR, "g.scatterlayer path.js-line")
        assert len(lines) == len(drawn)
        for line, (_, steps, _) in zip(lines, drawn, strict=True):
            assert line.size["width"] > 20 or len(steps) == 1


def test_who_does_not_see_it_is_told_the_same(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0])
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    levels = [int(heading.tag_name[1]) for heading in browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    pictures = browser.find_elements(By.CSS_SELECTOR, "[role=img]")
    assert len(pictures) == 5
    assert all(len(picture.get_attribute("aria-label") or "") > 40 for picture in pictures)
    for chart in browser.find_elements(By.CSS_SELECTOR, ".chart"):
        head = chart.find_elements(By.CSS_SELECTOR, "th[scope=col]")
        cells = chart.find_elements(By.CSS_SELECTOR, "tbody tr:first-child td")
        assert len(head) == len(cells) > 2
    identifiers = browser.execute_script("return [...document.querySelectorAll('[id]')].map((each) => each.id)")
    own = [name for name in identifiers if not re.search(r"\d", name)]
    assert len(own) == len(set(own))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_series_can_be_told_from_their_ground(ran: tuple[Path, Summary], browser: Chrome, scheme: str) -> None:
    show(browser, ran[0], scheme)
    ground, raised = variable(browser, "ground"), variable(browser, "raised")
    assert (contrast(ground, "#000000") > 10) == (scheme == "light")
    for name in ("ink", "quiet", "accent", "good", "bad"):
        assert contrast(variable(browser, name), ground) >= 4.5, name
        assert contrast(variable(browser, name), raised) >= 4.5, name
    for number in range(10):
        assert contrast(variable(browser, f"s{number}"), ground) >= 3, number
    red, green, blue = (int(variable(browser, "ink")[at : at + 2], 16) for at in (1, 3, 5))
    assert browser.execute_script(INK_OF_TICKS) == f"rgb({red}, {green}, {blue})"


def test_a_page_that_is_open_follows_the_scheme(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0], "light", changes=True)
    ink = browser.execute_script(INK_OF_TICKS)
    assert ink
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    # The browser tells the page in its next frame.
    WebDriverWait(browser, PATIENCE_S).until(lambda driver: driver.execute_script(INK_OF_TICKS) not in (ink, None))


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_on_a_phone_and_no_panel_lies_on_another(
    ran: tuple[Path, Summary], browser: Chrome, width: int
) -> None:
    show(browser, ran[0], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """return [...document.querySelectorAll(".panel")].map((panel) => {
        const box = panel.getBoundingClientRect();
        const ends = [...panel.querySelectorAll("svg.main-svg")].map((svg) => svg.getBoundingClientRect().right);
        const widest = Math.max(...ends);
        return [box.left, box.top, box.right, box.bottom, widest];
    })"""
    boxes = browser.execute_script(script)
    assert len(boxes) >= 3 + 3 + 3 + 1 + 1
    for left, top, right, bottom, widest in boxes:
        assert 0 <= left < right <= width
        assert widest <= right + 1
        for other in boxes:
            apart = other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top
            assert apart or other[:4] == [left, top, right, bottom]


def test_a_series_is_hidden_in_every_panel_by_mouse_and_by_keyboard(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0], changes=True)

    def drawn() -> list[list[str]]:
        script = """return [...document.querySelectorAll("#messages .plot")].map(
            (plot) => plot.data.filter((trace) => trace.visible === true).map((trace) => trace.name))"""
        found: list[list[str]] = browser.execute_script(script)
        return found

    assert all("all messages" in names for names in drawn())
    button = browser.find_element(By.CSS_SELECTOR, "#messages .legend button")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not any("all messages" in names for names in drawn())
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "true"
    assert all("all messages" in names for names in drawn())


def test_a_figure_tells_its_numbers_under_the_pointer_and_can_be_zoomed(
    ran: tuple[Path, Summary], browser: Chrome
) -> None:
    page, summary = ran
    show(browser, page, changes=True)
    plot = browser.find_element(By.CSS_SELECTOR, "#messages .panel:nth-child(3) .plot")
    # The last mark of the first line: all messages of the last point.
    place = plot.find_elements(By.CSS_SELECTOR, "g.scatterlayer g.trace:first-child path.point")[-1]
    ActionChains(browser).scroll_to_element(plot).move_to_element(place).perform()
    wait = WebDriverWait(browser, PATIENCE_S)  # figures answer the pointer in their next frame
    said = wait.until(lambda _: plot.find_element(By.CSS_SELECTOR, "g.hovertext").text)
    assert f"{summary['points'][5]['messages_total']:,} at 4 iterations" in said.replace("\n", " ")
    before = browser.execute_script("return arguments[0].layout.xaxis.range", plot)
    surface = plot.find_element(By.CSS_SELECTOR, "rect.nsewdrag")
    ActionChains(browser).move_to_element_with_offset(surface, -60, -40).click_and_hold().move_by_offset(
        90, 60
    ).release().perform()

    def narrower(driver: Chrome) -> bool:
        after = driver.execute_script("return arguments[0].layout.xaxis.range", plot)
        return bool(after[1] - after[0] < before[1] - before[0])

    wait.until(narrower)


def test_another_point_can_be_chosen_for_the_timeline(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0], changes=True)
    select = Select(browser.find_element(By.CSS_SELECTOR, "#timeline select"))
    names = [option.text for option in select.options]
    assert len(names) == 3  # R,R, R,W and W,W, each at 4 iterations
    seen = []
    for name in names:
        select.select_by_visible_text(name)
        series = browser.execute_script(
            "return document.querySelector('#timeline .plot').data.map((trace) => trace.name)"
        )
        seen.append(set(series))
    assert "PAGE_REQUEST" in seen[0]
    assert "INVALIDATE" not in seen[0]
    assert {"remote write", "INVALIDATE", "VOTE", "barrier"} <= seen[2]


def test_a_move_of_a_thread_is_seen_where_the_colour_changes(tmp_path: Path, browser: Chrome) -> None:
    (tmp_path / "own.py").write_text(CONSUMER)
    summary = summary_of(run(tmp_path, text(2, ", iterations: 40, placement: locality"), "--json"))
    page = tmp_path / "report.html"
    write([read_run(tmp_path / "results" / summary["run_id"])], page)
    show(browser, page, changes=True)
    drawn = browser.execute_script(
        "return document.querySelector('#stays .plot').data.map((trace) => [trace.name, trace.line.color, trace.y])"
    )
    threads = {name: set(rows) - {None} for name, _, rows in drawn}
    assert threads["x86"] & threads["arm"]
    assert len({colour for _, colour, _ in drawn}) == 2
    assert "remote faults" in str(browser.find_element(By.CSS_SELECTOR, "#stays table").get_attribute("textContent"))
    assert [entry["message"] for entry in logged(browser, "browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_print_is_light_and_holds_the_tables(ran: tuple[Path, Summary], browser: Chrome) -> None:
    show(browser, ran[0], "dark", changes=True)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert contrast(variable(browser, "ground"), "#000000") > 10
    tables = browser.find_elements(By.CSS_SELECTOR, ".chart table")
    assert tables
    assert all(table.is_displayed() for table in tables)
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert contrast(variable(browser, "ground"), "#ffffff") > 10
