"""Makes docs/report.png out of a report: the top of the page, as a browser shows it.

.venv/bin/python docs/report_picture.py results/RUN/report.html docs/report.png
"""

import base64
import sys
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

WIDTH, HEIGHT, SCALE = 1200, 1180, 1.25


def picture(page: Path) -> bytes:
    """The PNG. Its colours are cut to a palette by whoever commits it, if size matters."""
    options = ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(word)
    with Chrome(options=options, service=Service("/usr/bin/chromedriver")) as browser:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri())
        browser.execute_script("for (const bar of document.querySelectorAll('.modebar')) bar.remove()")
        shown = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(shown["data"])


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(picture(Path(sys.argv[1])))
