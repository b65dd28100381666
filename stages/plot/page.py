"""The report as a document: a few kinds of blocks, and the two ways to write them down.

`markdown` writes it for a code host, `html` as one page that needs nothing but itself. Whatever
stands in a block is plain text: both writers escape it.
"""

import base64
import html as html_module
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import TypeAlias

from PIL import Image

from stages.plot.page_template import TEMPLATE


@dataclass(frozen=True)
class Code:
    """A file name, a command, a value: in the typewriter's letters."""

    text: str


@dataclass(frozen=True)
class Strong:
    """What the eye should find first."""

    text: str


@dataclass(frozen=True)
class Small:
    """What stands back: the interval beside a figure."""

    text: str


@dataclass(frozen=True)
class Swatch:
    """A dot in the colour of the network whose name follows; only the page has it."""

    color: str


Phrase: TypeAlias = "str | Code | Strong | Small | Swatch | tuple[Phrase, ...]"


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: Phrase


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[Phrase]


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the rows' names, the others are set flush right."""

    header: Sequence[Phrase]
    rows: Sequence[Sequence[Phrase]]
    caption: str
    # Columns of words rather than numbers.
    words: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure: a PNG of reports/; the page may have another image of it, and one for phones."""

    file: str
    alt: str
    caption: Phrase = ""
    on_page: str | None = None
    narrow: str | None = None


@dataclass(frozen=True)
class Beside:
    """Figures beside each other where there is room."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Score:
    """The one figure of a network that the page opens with, from 0 to 1, and its interval."""

    name: str
    color: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scores:
    """Networks and baseline on one scale; in Markdown the table says the same."""

    label: str
    scores: Sequence[Score]


@dataclass(frozen=True)
class Listing:
    """Commands."""

    text: str


@dataclass(frozen=True)
class Details:
    """What opens on demand."""

    summary: str
    blocks: "Sequence[Block]"


Block: TypeAlias = "Paragraph | Bullets | Table | Picture | Beside | Scores | Listing | Details"


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """The report."""

    title: str
    subtitle: str
    lead: Phrase
    opening: Sequence[Block]
    sections: Sequence[Section]


def pictures_of(document: Document) -> list[Picture]:
    """All figures of a document in their order."""

    def of(blocks: Sequence[Block]) -> list[Picture]:
        found: list[Picture] = []
        for block in blocks:
            if isinstance(block, Picture):
                found.append(block)
            elif isinstance(block, Beside):
                found += block.pictures
            elif isinstance(block, Details):
                found += of(block.blocks)
        return found

    return of([*document.opening, *(b for section in document.sections for b in section.blocks)])


def anchor(title: str) -> str:
    """The name of a section in links, as code hosts make it from the title."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


# --- Markdown ---


def markdown(document: Document) -> str:
    """The document in GitHub's Markdown; the figures are files beside it."""
    parts = [f"# {_md(document.title)}", _md(document.subtitle), f"**{_md(document.lead)}**"]
    parts += _md_blocks(document.opening)
    links = [f"[{_md(s.title)}](#{anchor(s.title)})" for s in document.sections]
    parts.append(" · ".join(links))
    for section in document.sections:
        parts.append(f"## {_md(section.title)}")
        parts += _md_blocks(section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_blocks(blocks: Sequence[Block]) -> list[str]:
    return [_md_block(block) for block in blocks]


def _md_block(block: Block) -> str:  # noqa: PLR0911  one return for each kind
    match block:
        case Paragraph(text):
            return _md(text)
        case Bullets(items):
            return "\n".join(f"- {_md(item)}" for item in items)
        case Table(header, rows, caption, words):
            rule = ["---", *["---" if words else "---:"] * (len(header) - 1)]
            lines = [[_md(cell) for cell in header], rule]
            lines += [[_md(cell) for cell in row] for row in rows]
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return f"{table}\n\n*{_md(caption)}*" if caption else table
        case Picture(file, alt, caption):
            image = f"![{_md(alt)}]({file})"
            return f"{image}\n\n{_md(caption)}" if caption else image
        case Beside(pictures):
            return "\n\n".join(_md_block(picture) for picture in pictures)
        case Scores():
            return ""
        case Listing(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}sh\n{text}\n{fence}"
        case Details(summary, inner):
            inside = "\n\n".join(_md_blocks(inner))
            return f"<details><summary>{_escaped(summary)}</summary>\n\n{inside}\n\n</details>"


def _md(phrase: Phrase) -> str:
    match phrase:
        case str():
            text = re.sub(r"([\\`*_\[\]{}#|~$@:!])", r"\\\1", _one_line(phrase))
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            # Colons in our own sentences need no care; before slashes they would make a link.
            text = re.sub(r"\\:(?!//)", ":", text)
            return re.sub(r"(?i)\bwww\.", r"www\\.", text)
        case Code(text):
            text = _one_line(text)
            fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
            space = " " if text.startswith("`") or text.endswith("`") else ""
            return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
        case Strong(text):
            return f"**{_md(text)}**"
        case Small(text):
            return f"({_md(text)})"
        case Swatch():
            return ""
        case tuple():
            return "".join(_md(part) for part in phrase)


# --- HTML ---


def html(document: Document, figures: Mapping[str, bytes], pixels_per_inch: int) -> str:
    """The document as one HTML page that loads nothing.

    Args:
        document: The document.
        figures: By file name, each image of the document, PNG or WebP.
        pixels_per_inch: Of the figures; their size on the page follows from it.
    """
    picture = _PictureWriter(figures, pixels_per_inch)
    body = []
    for section in document.sections:
        name = anchor(section.title)
        body.append(f'<section id="{name}" aria-labelledby="{name}-title">')
        body.append(f'<h2 id="{name}-title">{_escaped(section.title)}</h2>')
        body += [_html_block(block, picture) for block in section.blocks]
        body.append("</section>")
    links = [
        f'<li><a href="#{anchor(s.title)}">{_escaped(s.title)}</a></li>' for s in document.sections
    ]
    return Template(TEMPLATE).substitute(
        title=_escaped(document.title),
        subtitle=_escaped(document.subtitle),
        lead=_html(document.lead),
        opening="\n".join(_html_block(block, picture) for block in document.opening),
        links="\n".join(links),
        body="\n".join(body),
    )


class _PictureWriter:
    def __init__(self, figures: Mapping[str, bytes], pixels_per_inch: int) -> None:
        self._figures = figures
        self._scale = 96 / pixels_per_inch

    def __call__(self, picture: Picture) -> str:
        file = picture.on_page or picture.file
        size = self._size(file)
        image = f'<img src="{self._uri(file)}" alt="{_escaped(picture.alt)}" {size}>'
        if picture.narrow:
            source = f'srcset="{self._uri(picture.narrow)}" {self._size(picture.narrow)}'
            media = 'media="(max-width: 640px)"'
            image = f"<picture><source {media} {source}>{image}</picture>"
        caption = f"<figcaption>{_html(picture.caption)}</figcaption>" if picture.caption else ""
        return f'<figure><div class="card">{image}</div>{caption}</figure>'

    def _size(self, file: str) -> str:
        with Image.open(io.BytesIO(self._figures[file])) as image:
            width, height = (round(side * self._scale) for side in image.size)
        return f'width="{width}" height="{height}"'

    def _uri(self, file: str) -> str:
        kind = file.rpartition(".")[2]
        return f"data:image/{kind};base64,{base64.b64encode(self._figures[file]).decode()}"


def _html_block(  # noqa: PLR0911  one return for each kind
    block: Block, picture: Callable[[Picture], str]
) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_html(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_html(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _html_table(block)
        case Picture():
            return picture(block)
        case Beside(pictures):
            return f'<div class="beside">{"".join(map(picture, pictures))}</div>'
        case Scores(label, scores):
            rows = "".join(_html_score(score) for score in scores)
            return f'<div class="scores"><p>{_escaped(label)}</p><dl>{rows}</dl></div>'
        case Listing(text):
            return f'<pre tabindex="0"><code>{_escaped(text, lines=True)}</code></pre>'
        case Details(summary, inner):
            inside = "".join(_html_block(part, picture) for part in inner)
            return f"<details><summary>{_escaped(summary)}</summary>{inside}</details>"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in table.header)
    rows = []
    for name, *cells in table.rows:
        values = "".join(f"<td>{_html(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{_html(name)}</th>{values}</tr>')
    label = _escaped(table.caption)
    caption = f"<caption><span>{label}</span></caption>" if label else ""
    kind = ' class="words"' if table.words else ""
    return (
        f'<div class="scroll" role="region" aria-label="{label or "table"}" tabindex="0">'
        f"<table{kind}>{caption}<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _html_score(score: Score) -> str:
    interval = ""
    note = ""
    if score.low is not None and score.high is not None:
        left, width = 100 * score.low, max(100 * (score.high - score.low), 0.4)
        interval = f'<i class="range" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
        note = f" <small>{score.low:.3f} to {score.high:.3f}</small>"
    return (
        f'<div style="--color:{score.color}"><dt>{_html(Swatch(score.color))}'
        f"{_escaped(score.name)}</dt><dd><b>{score.value:.3f}</b>{note}"
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * score.value:.2f}%"></i>'
        f"{interval}</span></dd></div>"
    )


def _html(phrase: Phrase) -> str:
    match phrase:
        case str():
            return _escaped(phrase)
        case Code(text):
            return f"<code>{_escaped(text)}</code>"
        case Strong(text):
            return f"<strong>{_escaped(text)}</strong>"
        case Small(text):
            return f"<small>{_escaped(text)}</small>"
        case Swatch(color):
            return f'<i class="swatch" style="background:{_escaped(color)}"></i>'
        case tuple():
            return "".join(_html(part) for part in phrase)


def _escaped(text: str, *, lines: bool = False) -> str:
    return html_module.escape(text if lines else _one_line(text))


def _one_line(text: str) -> str:
    """Text without line breaks, and a mark instead of each control character."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f]", "\ufffd", re.sub(r"[\t\r\n\f\v\u2028\u2029]+", " ", text)
    )
