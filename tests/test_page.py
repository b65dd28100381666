"""The report's page: three networks, and breeds and files with hostile names."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from stages.plot.report import escape
from tests.chromium import Tab, find_chromium
from tests.test_plot import FIGURES, HOSTILE, run


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the reports; read only."""
    folder = tmp_path_factory.mktemp("hostile")
    run(folder, {"conv_deconv": 0.3, "wide": 0.05, "unet": 0.1}, hostile=True)
    return folder / "reports"


class _Elements(HTMLParser):
    """All start tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def elements(reports: Path) -> _Elements:
    """The page's elements; read only."""
    return _Elements((reports / "index.html").read_text(encoding="utf-8"))


def test_a_third_network_is_in_all_tables_and_the_best_is_compared_with_the_next(
    reports: Path,
) -> None:
    text = (reports / "README.md").read_text()
    assert "**wide is better than U-Net, the next best: " in text
    assert "| Metric | Conv-Deconv | wide | U-Net | Baseline | wide − U-Net |" in text  # noqa: RUF001
    assert "| Breed | Images | Conv-Deconv | wide | U-Net | Baseline |" in text
    assert "| wide, LiteRT int8 | 0.00 MB | 99.00 % |" in text
    names = {path.name for path in reports.iterdir()}
    assert names >= {"wide.card.md", *(f"{name}.png" for name in FIGURES)}
    for name in names - {"README.md", "index.html"}:
        assert f"]({name})" in text or f"`{name}`" in text
    with Image.open(reports / "confusion.png") as image:
        assert image.height > 2 * image.width
        assert image.mode == "P"  # a third of the bytes


def test_in_a_browser_nothing_is_requested_and_all_images_show(reports: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not on the PATH")
    with Tab(program, 360, 800) as tab:
        tab("Page.navigate", url=(reports / "index.html").as_uri())
        tab.wait_for("document.readyState === 'complete' && document.images.length")
        tab.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        images = tab.evaluate("[...document.images].map((i) => [i.alt, i.naturalWidth])")
        assert len(images) == 9
        assert all(alt and natural > 0 for alt, natural in images)
        assert tab.evaluate("document.scripts.length") == 0
        # Tables scroll in their own boxes, the page itself does not.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        for scheme, shades in (("light", range(200, 256)), ("dark", range(50))):
            media = {"name": "prefers-color-scheme", "value": scheme}
            tab("Emulation.setEmulatedMedia", features=[media])
            color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert all(int(shade) in shades for shade in re.findall(r"\d+", color))
        assert [url for url in tab.requested if not url.startswith("data:")] == tab.requested[:1]
        assert tab.complaints == []


def test_the_page_names_nothing_outside_itself(elements: _Elements, reports: Path) -> None:
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "iframe", "object", "embed"})
    names = ("src", "srcset", "poster", "data", "action", "background")
    loads = [a[name] or "" for _, a in elements.tags for name in names if name in a]
    assert len(loads) == 9
    assert all(re.match("data:image/png[^ ]+$", load) for load in loads)
    links = [attributes.get("href") or "#" for _, attributes in elements.tags]
    assert all(link.startswith(("#", "data:")) for link in links)
    text = (reports / "index.html").read_text(encoding="utf-8")
    assert "url(" not in text.partition("</style>")[0]
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_links_headings_and_tables_are_accessible(elements: _Elements) -> None:
    names = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [a["href"] for t, a in elements.tags if t == "a"]
    assert targets == [f"#{a['id']}" for t, a in elements.tags if t == "section"]
    headings = [tag for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", *["h2"] * len(targets)]
    scopes = [a.get("scope") for t, a in elements.tags if t == "th"]
    assert scopes.count("row") > len(scopes) / 2
    regions = [a for _, a in elements.tags if a.get("role") == "region"]
    assert len(regions) == len([t for t, _ in elements.tags if t == "table"])
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)


def test_hostile_names_are_shown_as_they_are(elements: _Elements, reports: Path) -> None:
    assert all(name.replace("_", " ") in elements.text for name in HOSTILE)
    assert not [a for _, a in elements.tags if any(key.startswith("on") for key in a)]
    markdown = (reports / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(?!/?details|/?summary)", markdown)
    assert "](https:" not in markdown.replace("\\](https", "")


MARKDOWN = MarkdownIt("commonmark").enable("table")


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE))
def test_any_text_stays_text_in_its_cell(text: str) -> None:
    cell = escape(text)
    assert escape(cell) == cell
    found = _Elements(MARKDOWN.render(f"| a | b |\n| --- | --- |\n| x{cell}x | {cell} |\n"))
    assert " ".join(tag for tag, _ in found.tags) == "table thead tr th th tbody tr td td"
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(text.split()))
    assert f"x{line}x" in found.text


def test_what_github_alone_takes_for_links_is_escaped() -> None:
    assert escape("see https://x.org: WWW.y.org @z") == r"see https\://x.org: WWW\.y.org \@z"
