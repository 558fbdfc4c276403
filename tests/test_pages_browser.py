"""The pages of `mvsent explain` and `mvsent review` in a browser: whole, quiet, usable, and safe from strangers."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mvsent.pages.review import review
from mvsent.report.explain_page import render_explanations
from mvsent.report.overlays import Explained
from tests.browser import chromium, console, emulate, needs_chromium, requests, source_pages
from tests.conftest import write_dataset
from tests.drawing import draw_pairs, draw_picture

pytestmark = needs_chromium

HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "\"' onmouseover=\"document.title = 'owned'\" autofocus onfocus=\"document.title = 'owned'\" x='",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "</p></article></main><h1>owned</h1><style>*{display:none}</style>",
    "{{ 7 * 7 }} <meta http-equiv=refresh content=0;url=http://127.0.0.1:9/>",
    "long" * 500,
    "safe \u202egnp.exe\u202c \x1b[31m",
]
LABELS = {"negative": 0.1, "neutral": 0.2, "positive": 0.7}
DARK, LIGHT = "dark", "light"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def explained(id: str, words: list[str], picture: Image.Image | None, gold: str = "negative") -> Explained:
    weights = np.arange(1, len(words) + 1) / len(words)
    maps = {"class activation": np.eye(7), "spatial attention": np.eye(7)[::-1]}
    return Explained(
        id=id,
        kind="error",
        picture=picture,
        words=words,
        maps=maps if picture else {},
        shades={"semantic attention": weights} if words else {},
        text_share=0.7,
        probabilities=LABELS,
        gold=gold,
    )


def drawn(label: int) -> Image.Image:
    return Image.open(io.BytesIO(draw_picture(label, label)))


def explanations(name: str, pairs: list[Explained]) -> str:
    orders = {
        order: {"deletion": 0.45, "insertion": 0.6} for order in ("class activation", "regions by chance")
    }
    return render_explanations(f"{name}, what it looked at", name, pairs, {"rows": 1000, "orders": orders})


def changed(pairs: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        field = pairs.schema.field(name)
        pairs = pairs.set_column(pairs.schema.get_field_index(name), field, pa.array(values, field.type))
    return pairs


def review_page(folder: Path, pairs: pa.Table) -> Path:
    dataset = write_dataset(folder / "d", pairs, name="drawn")
    result = review(dataset, out=folder / "r.csv", html=True, quiet=True)
    assert result.page is not None
    return result.page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both pages of harmless rows, both of hostile ones, and one of rows whose source is on this machine."""
    root = tmp_path_factory.mktemp("pages")
    rows = [
        explained("row:1", ["a", "good", "day"], drawn(0)),
        explained("row:2", [], drawn(2)),
        explained("row:3", ["no", "picture"], None),
    ]
    hostile = [explained(text, [text, "day"], drawn(0), gold=text) for text in HOSTILE]
    n = 2 * len(HOSTILE)
    texts = [text for text in HOSTILE for _ in "ab"]
    planted = changed(
        draw_pairs(n),
        id=[f"{i}{text}" for i, text in enumerate(texts)],
        text=texts,
        query=texts,
        license=texts,
        owner=texts,
        title=texts,
        page_url=[f"javascript:document.title='owned {i}'" for i in range(n)],
    )
    with source_pages() as (address, _):
        twins = changed(
            draw_pairs(12),
            text=[f"a good day {i // 2}" for i in range(12)],
            label=[0, 0, *[0, 2] * 5],
            page_url=[f"{address}/{i}" for i in range(12)],
        )
        for name in ("plain", "hostile"):
            (root / name).mkdir()
        (root / "explain.html").write_text(explanations("a-run", rows), encoding="utf-8")
        (root / "hostile.html").write_text(explanations(HOSTILE[0], hostile), encoding="utf-8")
        yield {
            "explain": root / "explain.html",
            "hostile explain": root / "hostile.html",
            "review": review_page(root / "plain", twins),
            "hostile review": review_page(root / "hostile", planted),
        }


ALL = pytest.mark.parametrize("name", ["explain", "hostile explain", "review", "hostile review"])
PLAIN = pytest.mark.parametrize("name", ["explain", "review"])


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Callable[..., Path]:
    """Open the page of that name on a screen of that width, in light or dark; its file."""

    def open_page(name: str, width: int = 1280, scheme: str = LIGHT) -> Path:
        console(browser)
        requests(browser)
        emulate(browser, width, 900, scheme)
        browser.get(pages[name].as_uri())
        return pages[name]

    return open_page


def found(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


@pytest.mark.slow
@ALL
def test_a_page_opens_without_a_request_and_without_a_word_in_the_console(
    browser: Any, opened: Callable[..., Path], name: str
) -> None:
    page = opened(name)
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    asked = [address for address in requests(browser) if not address.startswith(("data:", "chrome:"))]
    assert asked == [page.as_uri()]
    assert console(browser) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hostile explain", "hostile review"])
def test_what_strangers_wrote_stays_text(browser: Any, opened: Callable[..., Path], name: str) -> None:
    opened(name)
    for element in found(browser, ".card .id, .explained h3")[:3]:
        browser.execute_script(
            "arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", element
        )
    assert "owned" not in re.sub(r"'owned'", "", browser.title)
    assert len(found(browser, "script")) == len(found(browser, "style")) == len(found(browser, "h1")) == 1
    assert not found(browser, "[onmouseover], [onerror], [onfocus], [autofocus], meta[http-equiv=refresh]")
    assert not found(browser, "a[href^=javascript]")
    words = browser.execute_script("return document.body.textContent")
    assert "<script>document.title = 'owned'</script>" in words
    assert "{{ 7 * 7 }}" in words
    assert "\u202e" not in words and "\x1b" not in words


@ALL
def test_nothing_is_wider_than_a_phone(browser: Any, opened: Callable[..., Path], name: str) -> None:
    opened(name, width=375)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375


@pytest.mark.slow
@ALL
def test_a_page_has_one_title_and_names_for_all_that_can_be_used_or_seen(
    browser: Any, opened: Callable[..., Path], name: str
) -> None:
    opened(name)
    assert len(found(browser, "h1")) == 1
    assert all(image.get_attribute("alt") for image in found(browser, "img"))
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]
    ]
    assert {"banner", "navigation", "main", "contentinfo", "heading", "image"} <= {role for role, _ in named}
    must_be_named = {
        "image",
        "link",
        "button",
        "combobox",
        "searchbox",
        "meter",
        "region",
        "heading",
        "article",
    }
    assert [role for role, words in named if role in must_be_named and not words] == []


@PLAIN
def test_pictures_are_shown_under_the_policy(browser: Any, opened: Callable[..., Path], name: str) -> None:
    opened(name)
    images = found(browser, "img")
    for image in images:
        browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", image)
    widths = [browser.execute_async_script(DECODED, image) for image in images]
    assert len(widths) == {"explain": 6, "review": 12}[name]
    assert min(widths) > 0


DECODED = (
    "const [image, done] = arguments; image.decode().then(() => done(image.naturalWidth), () => done(0))"
)


@PLAIN
def test_the_keyboard_skips_to_the_content_and_follows_a_link(
    browser: Any, opened: Callable[..., Path], name: str
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(name)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.text == "Skip to the content"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return document.activeElement.id") == "content"
    last = found(browser, "nav a")[-1]
    last.send_keys(Keys.ENTER)
    anchor = last.get_attribute("href").rpartition("#")[2]
    assert browser.current_url.endswith(f"#{anchor}")
    heading = browser.find_element("id", anchor)
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    assert heading.is_displayed()


def test_a_table_that_scrolls_is_reached_by_keyboard(browser: Any, opened: Callable[..., Path]) -> None:
    opened("explain")
    assert [table.get_attribute("tabindex") for table in found(browser, ".wide")] == ["0"]


def test_a_row_to_look_at_leads_to_its_source(browser: Any, opened: Callable[..., Path]) -> None:
    opened("review")
    link = found(browser, ".card a[rel]")[0]
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", link)
    link.click()
    assert browser.title == "a source page"


@pytest.mark.slow
def test_rows_to_look_at_are_filtered_by_label_and_reason_and_words(
    browser: Any, opened: Callable[..., Path]
) -> None:
    from selenium.webdriver.support.ui import Select

    def shown() -> list[Any]:
        return [card for card in found(browser, ".card") if card.is_displayed()]

    opened("review")
    assert len(shown()) == 12
    Select(browser.find_element("css selector", "select[name=reason]")).select_by_value("contradiction")
    assert len(shown()) == 10
    Select(browser.find_element("css selector", "select[name=label]")).select_by_value("positive")
    assert {card.get_attribute("data-label") for card in shown()} == {"positive"}
    browser.find_element("css selector", "input[type=search]").send_keys("GOOD DAY 3")
    assert len(shown()) == 1
    assert browser.find_element("css selector", "output").text == "1 of 12 cards"


@pytest.mark.slow
def test_a_twin_is_shown_though_the_filter_had_hidden_it(browser: Any, opened: Callable[..., Path]) -> None:
    from selenium.webdriver.support.ui import Select

    opened("review")
    Select(browser.find_element("css selector", "select[name=label]")).select_by_value("positive")
    link = next(link for link in found(browser, ".card .facts a") if link.is_displayed())
    twin = browser.find_element("id", link.get_attribute("href").rpartition("#")[2])
    assert not twin.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", link)
    link.click()
    assert twin.is_displayed()


@PLAIN
def test_the_navigation_has_the_names_of_the_headings(
    browser: Any, opened: Callable[..., Path], name: str
) -> None:
    opened(name)
    assert [link.text for link in found(browser, "nav a")] == [title.text for title in found(browser, "h2")]


@pytest.mark.slow
@PLAIN
def test_in_the_dark_the_page_is_dark_and_in_the_light_it_is_light(
    browser: Any, opened: Callable[..., Path], name: str
) -> None:
    brightness = {}
    for scheme in (LIGHT, DARK):
        opened(name, scheme=scheme)
        with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
            brightness[scheme] = float(np.median(np.asarray(picture.convert("L"))))
    assert brightness[LIGHT] > 200
    assert brightness[DARK] < 60


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
@ALL
def test_every_word_stands_out_from_what_is_behind_it(
    browser: Any, opened: Callable[..., Path], name: str, scheme: str
) -> None:
    opened(name, scheme=scheme)
    faint = browser.execute_script(CONTRAST)
    assert faint == [], "contrast below 4.5 : 1, the least that WCAG 2.2 allows (1.4.3)"


CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const over = (top, below) => {
  const a = top[3] ?? 1;
  return [0, 1, 2].map((i) => a * top[i] + (1 - a) * below[i]);
};
const behind = (element) => {
  if (!element) return [255, 255, 255];
  return over(numbers(getComputedStyle(element).backgroundColor), behind(element.parentElement));
};
const luminance = (colour) => {
  const [r, g, b] = colour.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("script, meter, option, svg")) continue;
  const below = behind(element), ink = over(numbers(getComputedStyle(element).color), below);
  const [low, high] = [luminance(ink), luminance(below)].sort((a, b) => a - b);
  const contrast = (high + 0.05) / (low + 0.05);
  if (contrast < 4.5) found.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${contrast.toFixed(2)} ${element.className}`);
}
return found;
"""
