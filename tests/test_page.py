import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.plot import __main__ as plot
from stages.plot import page
from stages.plot.page import (
    Code,
    Details,
    Document,
    Listing,
    Paragraph,
    Section,
    Small,
    Strong,
    Table,
)
from tests.test_plot import HOSTILE, write_inputs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP = 360, 1280
# What the test's copy of the page notes about itself once it is loaded.
PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach((details) => details.open = true);
  parent.postMessage(JSON.stringify({
    loads: performance.getEntriesByType("resource").map((entry) => entry.name),
    images: [...document.images].map((image) => [image.alt, image.naturalWidth]),
    wide: document.documentElement.scrollWidth,
    inner: innerWidth,
    background: getComputedStyle(document.body).backgroundColor,
    scripts: document.scripts.length,
  }), "*");
})</script></body>"""
# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!doctype html><html style="color-scheme: light dark"><body>
<script>addEventListener("message", (message) => {
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = message.data;
  document.body.append(note);
})</script>
<iframe src="page.html" width="%d" height="800" style="border: 0"></iframe></body></html>"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of two networks whose breeds and files have hostile names; read only."""
    folder = tmp_path_factory.mktemp("hostile")
    write_inputs(folder, {"conv_deconv": 0.3, "unet": 0.1}, hostile=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main()
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


def _probe(index: Path, folder: Path, width: int, *, dark: bool = False) -> dict[str, Any]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH")
    text = index.read_text(encoding="utf-8")
    # The page's own policy allows no script at all.
    text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (folder / "page.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME % width, encoding="utf-8")
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-component-update",
            "--disable-background-networking", "--disable-sync", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
        ],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    note = re.search(r'<pre id="probe">(.*?)</pre>', shown, re.DOTALL)
    assert note, "the page has not loaded"
    found: dict[str, Any] = json.loads(html.unescape(note.group(1)))
    return found


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESKTOP, True)])
def test_in_a_browser_nothing_is_requested_and_all_pictures_show(
    reports: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    found = _probe(reports / "index.html", tmp_path, width, dark=dark)
    assert found["inner"] == width
    assert all(name.startswith("data:") for name in found["loads"])
    assert len(found["images"]) == 9
    assert [alt for alt, natural in found["images"] if not alt or natural <= 0] == []
    # Tables scroll in their own boxes, the page itself does not.
    assert found["wide"] <= width
    # The hostile names have made no script of their own.
    assert found["scripts"] == 1
    lightness = max(map(int, re.findall(r"\d+", found["background"])))
    assert (lightness < 80) == dark


def test_the_page_names_nothing_outside_itself(reports: Path) -> None:
    text = (reports / "index.html").read_text(encoding="utf-8")
    elements = _Elements(text)
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "iframe", "object", "embed"})
    loads = [
        (attributes.get(name) or "")
        for _, attributes in elements.tags
        for name in ("src", "srcset", "poster", "data", "action", "background")
        if name in attributes
    ]
    assert len(loads) >= 9
    links = [attributes.get("href") or "" for tag, attributes in elements.tags]
    assert all(load.startswith("data:image/") and " " not in load for load in loads)
    assert all(link == "" or link.startswith(("#", "data:")) for link in links)
    assert "url(" not in text.partition("</style>")[0]
    assert "@import" not in text
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_links_and_headings_are_in_order(reports: Path) -> None:
    tags = _Elements((reports / "index.html").read_text(encoding="utf-8")).tags
    names = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [a["href"] for t, a in tags if t == "a"]
    assert targets == [f"#{a['id']}" for t, a in tags if t == "section"]
    headings = [tag for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", *["h2"] * len(targets)]


def test_hostile_names_are_shown_as_they_are(reports: Path) -> None:
    elements = _Elements((reports / "index.html").read_text(encoding="utf-8"))
    for name in HOSTILE:
        assert name.replace("_", " ") in elements.text
    assert not [a for _, a in elements.tags if any(key.startswith("on") for key in a)]
    markdown = (reports / "README.md").read_text(encoding="utf-8")
    outside_code = re.sub(r"(`+)[^\n]+?(?<!`)\1(?!`)", "", markdown)
    assert "<script" not in outside_code
    assert "<img" not in outside_code
    assert "](https:" not in outside_code
    # As many cells in each row as in the table's header, whatever the names are.
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_reports_are_small(reports: Path) -> None:
    assert sum(path.stat().st_size for path in reports.iterdir()) < 3_000_000


def _document(text: str) -> Document:
    cells: list[page.Phrase] = [text, Code(text), Strong(text), Small(text), (text, Code(text))]
    blocks: list[page.Block] = [
        Paragraph(text),
        Table(cells, [cells, cells], text),
        Details(text, [Listing(text)]),
    ]
    return Document(text, text, text, [], [Section("Only section", blocks)])


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE))
def test_any_text_stays_text_on_the_page(text: str) -> None:
    plain = _Elements(page.html(_document("plain"), {}, 96))
    shown = _Elements(page.html(_document(text), {}, 96))
    skeleton = [tag for tag, _ in plain.tags]
    # An empty caption has no element.
    if text.strip():
        assert [tag for tag, _ in shown.tags] == skeleton
    assert {key for _, a in shown.tags for key in a} <= {key for _, a in plain.tags for key in a}


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE))
def test_any_text_stays_in_its_cell_in_markdown(text: str) -> None:
    lines = page.markdown(_document(text)).split("\n")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) >= 4
    table = [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) == 6]
    assert len(table) >= 4
    assert not re.search(r"(?<!\\)<(script|img)", re.sub(r"(`+).*?\1", "", "\n".join(table)))


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a_b*c*", r"a\_b\*c\*"),
        ("[x](y)", r"\[x\](y)"),
        ("a|b", r"a\|b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("two\nlines", "two lines"),
        ("see https://x.org", r"see https\://x.org"),
        ("a: b", "a: b"),
        ("bell\x07", "bell\ufffd"),
        (Code("a`b|c"), r"``a`b\|c``"),
        (Strong("a*"), r"**a\***"),
        (Small("0.1 to 0.2"), "(0.1 to 0.2)"),
    ],
)
def test_markdown_of_a_phrase(text: page.Phrase, markdown: str) -> None:
    document = Document("t", "s", "l", [], [Section("S", [Paragraph(text)])])
    assert page.markdown(document).endswith(f"## S\n\n{markdown}\n")
