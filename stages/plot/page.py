"""The report as one HTML page that needs nothing but itself."""

import base64
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markupsafe import Markup
from PIL import Image

from stages.plot.figures import encode
from stages.plot.inputs import Networks
from stages.plot.report import environment
from stages.records.classes import NEUTRAL

# The HTML that a template in Markdown may hold; all other is shown as text.
ALLOWED_HTML = re.compile(r"<details( open)?><summary>[\w ,]*</summary>|</details>")
SCALE = 96 / 150  # pixels an inch of CSS and of the figures
# Figures with photographs in them: as WebP they have half of the bytes.
PHOTOGRAPHIC = ("predictions", "samples", "worst", "best")
TABLE = re.compile(r"<table>\n((?s:.*?))</table>\n(?:<p><em>(.*)</em></p>\n)?")
FIGURE = re.compile(r'<p><img src="(.*?)\.png" alt="(.*?)" />(?:<br />\n<em>(.*)</em>)?</p>')


def html(text: str, images: Mapping[str, Image.Image], context: Mapping[str, Any]) -> str:
    """Renders the report's Markdown in the frame of page.html.j2, a section for each `##`."""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    sections = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        content = dressed(body_html(body), images, context["networks"])
        sections.append((title, re.sub(r"\W+", "-", title.lower()), Markup(content)))  # noqa: S704
    frame = environment().get_template("page.html.j2")
    return frame.render(context, sections=sections, neutral=NEUTRAL)


def body_html(text: str) -> str:
    """Renders Markdown; of the HTML in it only <details> and its <summary> pass."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").disable("html_inline")
    markdown.add_render_rule("html_block", _html_block)
    return str(markdown.render(text))


def dressed(text: str, images: Mapping[str, Image.Image], networks: Networks) -> str:
    """Makes figures and accessible tables of what `body_html` wrote, with the italics below them.

    Its text is escaped, so that what looks like a tag is one.
    """
    text = FIGURE.sub(lambda match: _figure(match, images), text)
    text = TABLE.sub(_table, text)
    for network in networks:
        name = re.escape(escape(network.title))
        dot = f'<i class="swatch" style="background:{network.color}"></i>'
        text = re.sub(rf"(<th[^>]*>)(?={name}[,<])", rf"\1{dot}", text)
    return text


def _html_block(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    content = tokens[index].content
    return content if ALLOWED_HTML.fullmatch(content.strip()) else escapeHtml(content)


def _figure(match: re.Match[str], images: Mapping[str, Image.Image]) -> str:
    name, alt, caption = match.groups(default="")
    width, height = (round(side * SCALE) for side in images[name].size)
    kind = "webp" if name in PHOTOGRAPHIC else "png"
    data = base64.b64encode(encode(images[name], kind)).decode()
    source = f"data:image/{kind};base64,{data}"
    shown = f'<img src="{source}" alt="{alt}" width="{width}" height="{height}">'
    foot = f"<figcaption>{caption}</figcaption>"
    return f'<figure><div class="card">{shown}</div>{foot}</figure>'


def _table(match: re.Match[str]) -> str:
    rows, caption = match.groups(default="")
    rows = re.sub(r"<th\b", '<th scope="col"', rows)
    rows = re.sub(r"<tr>\n<td[^>]*>(.*)</td>", r'<tr>\n<th scope="row">\1</th>', rows)
    # An interval stands back behind its metric.
    rows = re.sub(r"(<td style.*) \((.*)\)</td>", r"\1 <small>\2</small></td>", rows)
    foot = f"<caption><span>{caption}</span></caption>\n" if caption else ""
    return (
        f'<div class="scroll" role="region" aria-label="{caption or "Table"}" tabindex="0">'
        f"<table>\n{foot}{rows}</table></div>\n"
    )
