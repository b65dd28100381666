"""The report as one HTML page that needs nothing but itself."""

import base64
import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from stages.plot.report import environment
from stages.records.classes import NEUTRAL

SCALE = 96 / 150  # pixels an inch of CSS and of the figures
FIGURE = re.compile(r'<p><img src="(.*?)" alt="(.*?)" />(?:<br />\n<em>(.*)</em>)?</p>')
TABLE = re.compile(r"<table>\n((?s:.*?))</table>\n(?:<p><em>(.*)</em></p>\n)?")


def html(text: str, images: Mapping[str, bytes], context: Mapping[str, Any]) -> str:
    """Renders the report's Markdown in the frame of page.html.j2, a section for each `##`.

    Figures, of which `images` are the PNG files by name, and tables get the italics below them as
    captions. Names are escaped already (`report.escape`): what looks like a tag is one.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    sections = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        content = FIGURE.sub(lambda match: _figure(match, images), markdown.render(body))
        content = TABLE.sub(_table, content)
        for network in context["networks"]:
            dot = f'<i class="swatch" style="background:{network.color}"></i>'
            name = re.escape(escape(network.title))
            content = re.sub(rf"(<th[^>]*>)(?={name}[,<])", rf"\1{dot}", content)
        sections.append((title, re.sub(r"\W+", "-", title.lower()), Markup(content)))  # noqa: S704
    frame = environment().get_template("page.html.j2")
    return frame.render(context, sections=sections, neutral=NEUTRAL)


def _figure(match: re.Match[str], images: Mapping[str, bytes]) -> str:
    name, alt, caption = match.groups(default="")
    width = round(SCALE * Image.open(io.BytesIO(images[name])).width)
    source = f"data:image/png;base64,{base64.b64encode(images[name]).decode()}"
    shown = f'<img src="{source}" alt="{alt}" width="{width}">'
    return f'<figure><div class="card">{shown}</div><figcaption>{caption}</figcaption></figure>'


def _table(match: re.Match[str]) -> str:
    rows, caption = match.groups(default="")
    # The first column heads the rows, an interval stands back.
    rows = re.sub(r"<tr>\n<td[^>]*>(.*)</td>", r'<tr>\n<th scope="row">\1</th>', rows)
    rows = re.sub(r"(<td style.*) \((.*)\)</td>", r"\1 <small>\2</small></td>", rows)
    foot = f"<caption><span>{caption}</span></caption>\n" if caption else ""
    region = f'role="region" aria-label="{caption or "Table"}" tabindex="0"'
    return f'<div class="scroll" {region}><table>\n{foot}{rows}</table></div>\n'
