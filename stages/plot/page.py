"""The report as one HTML page that needs nothing but itself."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markupsafe import Markup
from PIL import Image

from stages.plot.inputs import Network
from stages.records.classes import NEUTRAL

# The HTML that a template in Markdown may hold; all other is shown as text.
ALLOWED_HTML = re.compile(r"<details( open)?><summary>[\w ,]*</summary>|</details>")
# The figures' 150 pixels an inch against the 96 of CSS.
SCALE = 96 / 150


def html(
    text: str, images: Mapping[str, bytes], networks: Sequence[Network], **context: Any
) -> str:
    """Renders the report's Markdown in the frame of page.html.j2.

    Args:
        text: The Markdown; each of its `##` headings becomes a section of the page.
        images: By file name; NAME.webp is taken instead of NAME.png, and NAME.narrow.png on phones.
        networks: The networks, for the colors of their names.
        context: What else the frame shows.
    """
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").disable("html_inline")
    markdown.add_render_rule("html_block", _html_block)
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    sections = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        content = _dressed(markdown.render(body), images, networks)
        sections.append((title, re.sub(r"\W+", "-", title.lower()), Markup(content)))  # noqa: S704
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    frame = environment.get_template("page.html.j2")
    return frame.render(context, networks=networks, sections=sections, neutral=NEUTRAL)


def _html_block(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    content = tokens[index].content
    return content if ALLOWED_HTML.fullmatch(content.strip()) else escapeHtml(content)


def _dressed(text: str, images: Mapping[str, bytes], networks: Sequence[Network]) -> str:
    """Makes figures and accessible tables of what markdown-it wrote.

    A paragraph in italics below a table or an image is its caption. Text is escaped, so that what
    looks like a tag is one.
    """
    caption = r"(?:<p><em>(.*)</em></p>\n)?"
    text = re.sub(
        rf'<p><img src="(.*?)" alt="(.*?)" /></p>\n{caption}',
        lambda match: _figure(*match.groups(), images),
        text,
    )
    text = re.sub(rf"<table>\n((?s:.*?))</table>\n{caption}", _table, text)
    for network in networks:
        dot = f'<i class="swatch" style="background:{network.color}"></i>'
        text = re.sub(rf"(<th[^>]*>)(?={re.escape(escape(network.title))}[,<])", rf"\1{dot}", text)
    return text


def _figure(file: str, alt: str, caption: str | None, images: Mapping[str, bytes]) -> str:
    name = file.removesuffix(".png")
    wide, narrow = f"{name}.webp" if f"{name}.webp" in images else file, f"{name}.narrow.png"
    image = f'<img {_source("src", wide, images)} alt="{alt}">'
    if narrow in images:
        source = f'<source media="(max-width: 640px)" {_source("srcset", narrow, images)}>'
        image = f"<picture>{source}{image}</picture>"
    foot = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><div class="card">{image}</div>{foot}</figure>\n'


def _source(attribute: str, file: str, images: Mapping[str, bytes]) -> str:
    with Image.open(io.BytesIO(images[file])) as image:
        width, height = (round(side * SCALE) for side in image.size)
    code = base64.b64encode(images[file]).decode()
    kind = file.rpartition(".")[2]
    return f'{attribute}="data:image/{kind};base64,{code}" width="{width}" height="{height}"'


def _table(match: re.Match[str]) -> str:
    rows, caption = match.groups()
    rows = re.sub(r"<th\b", '<th scope="col"', rows)
    rows = re.sub(r"<tr>\n<td[^>]*>(.*)</td>", r'<tr>\n<th scope="row">\1</th>', rows)
    # What stands back: an interval behind a metric.
    rows = re.sub(r"(<td style.*) \((.*)\)</td>", r"\1 <small>\2</small></td>", rows)
    foot = f"<caption><span>{caption}</span></caption>\n" if caption else ""
    label = re.sub(r"<.*?>", "", caption or "Table")
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f"<table>\n{foot}{rows}</table></div>\n"
    )
