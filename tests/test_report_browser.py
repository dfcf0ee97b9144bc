"""The report in a browser: on a phone and a desktop, light, dark and printed."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_script
from report_run import make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with a chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Pictures that are not loaded, or without an alternative text or a caption.
PICTURES = """
return [...document.querySelectorAll('img, svg[role=img]')].filter(p => {
  const caption = p.closest('figure')?.querySelector(':scope > figcaption');
  const text = p.tagName === 'IMG' ? p.alt : p.getAttribute('aria-label');
  const drawn = p.tagName === 'IMG' ? p.complete && p.naturalWidth > 0 : p.getBoundingClientRect().width > 100;
  return !drawn || !text || !caption || !caption.innerText.trim();
}).map(p => p.outerHTML.slice(0, 200));
"""
# Elements that extend beyond the window, except for those that scroll.
OVERFLOW = """
const limit = document.documentElement.clientWidth + 0.5;
return [...document.body.querySelectorAll('*')].filter(e =>
  !e.closest('.scroll > *') && !e.closest('svg *') && e.getBoundingClientRect().right > limit
).map(e => e.outerHTML.slice(0, 200));
"""
# Texts of a figure that extend beyond its edge or overlap.
CHART_TEXTS = """
const wrong = [];
for (const svg of document.querySelectorAll('svg.chart')) {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([text, a], n) => {
    if (a.left < box.left - 1 || a.right > box.right + 1 || a.bottom > box.bottom + 1) wrong.push(text);
    for (const [other, b] of texts.slice(n + 1))
      if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2)
        wrong.push(text + ' / ' + other);
  });
}
return wrong;
"""
# Texts with too little contrast by WCAG's formula. Translucent backgrounds are blended.
CONTRAST = """
const parse = c => { const v = c.match(/[\\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
const over = (a, b) => [0, 1, 2].map(k => a[k] * a[3] + b[k] * (1 - a[3])).concat(1);
const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const wrong = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walk.nextNode());) {
  const element = node.parentElement;
  if (!node.textContent.trim() || element.closest('title')) continue;
  const chain = [];
  for (let e = element; e; e = e.parentElement) chain.unshift(parse(getComputedStyle(e).backgroundColor));
  const back = chain.reduce((below, c) => over(c, below), [255, 255, 255, 1]);
  const style = getComputedStyle(element);
  const front = over(parse(element.closest('svg') ? style.fill : style.color), back);
  const [a, b] = [light(front), light(back)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) wrong.push(node.textContent.trim().slice(0, 40) + ' ' + ratio.toFixed(2));
}
return wrong;
"""


@pytest.fixture(scope="module")
def page(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tiny_data, tmp_path_factory.mktemp("browser") / "run")
    run_script("report.py", "--run", run)
    return run / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser: "webdriver.Chrome", page: Path, width: int, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page(browser: "webdriver.Chrome", page: Path, width: int, scheme: str) -> None:
    visit(browser, page, width, scheme)
    run = browser.execute_script
    assert run("return innerWidth") == width
    assert run("return document.documentElement.scrollWidth") <= width
    assert run(OVERFLOW) == []
    assert run("return document.querySelectorAll('img').length") > 80
    assert run(PICTURES) == []
    assert run(CHART_TEXTS) == []
    assert run(CONTRAST) == []
    ground = run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    sections = run(
        "return [...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))"
    )
    assert len(sections) == 7 and all(sections)
    assert browser.get_log("browser") == []


def test_nothing_leaves_the_file(browser: "webdriver.Chrome", page: Path) -> None:
    browser.get_log("performance")
    visit(browser, page, 1280, "light")
    requests = [
        line["message"]
        for line in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in line["message"]
    ]
    assert requests
    assert all('"url":"file:' in message or '"url":"data:' in message for message in requests)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith("data:") for name in loaded)


def test_print(browser: "webdriver.Chrome", page: Path) -> None:
    visit(browser, page, 1280, "dark")
    result = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(result["data"])
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") > 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert (
        browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert browser.execute_script(CONTRAST) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
