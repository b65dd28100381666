"""The texts of the report: Jinja2 templates in Markdown, and the sentences and cells in them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.metrics.comparison import Difference
from stages.metrics.results import FEW_IMAGES, Slice
from stages.plot.inputs import Network, Networks, metric
from stages.records.classes import CLASS_NAMES

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# The metrics of the comparison: label and path in `Results`.
METRICS: list[tuple[str, tuple[str, ...]]] = [
    ("Accuracy", ("accuracy",)),
    ("Mean IoU", ("mean_iou",)),
    ("Mean IoU per image", ("mean_image_iou",)),
    *((f"IoU {name}", ("iou", name)) for name in CLASS_NAMES),
    ("Pet IoU, border as pet", ("pet_iou", "border_as_pet")),
    ("Pet IoU, border left out", ("pet_iou", "border_left_out")),
    *((f"Boundary F, {pixels} px", ("boundary_f", f"{pixels}px")) for pixels in (1, 2, 3)),
    ("Calibration error", ("calibration_error",)),
    ("Loss", ("loss",)),
]
LOWER_IS_BETTER = ("calibration_error", "loss")
# By format in exports.csv: its title, and its file in models/<network>.export/.
FORMATS = {
    "keras": ("Keras", "NAME.keras"),
    "saved_model": ("SavedModel", "saved_model"),
    "litert_float32": ("LiteRT float32", "NAME.float32.tflite"),
    "litert_float16": ("LiteRT float16", "NAME.float16.tflite"),
    "litert_dynamic": ("LiteRT dynamic range", "NAME.dynamic.tflite"),
    "litert_int8": ("LiteRT int8", "NAME.int8.tflite"),
    "onnx": ("ONNX", "NAME.onnx"),
}
# What Markdown or GitHub could take for markup, links, formulas or mentions.
_SPECIAL = re.compile(r"[\\`*_\[\]{}#|~$@!<>&]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def escape(value: object) -> Markup:
    """Markdown that shows a text as it is, on one line; leaves what is Markdown already."""
    if isinstance(value, Markup):
        return value
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(str(value).split()))
    return Markup(_SPECIAL.sub(r"\\\g<0>", line))  # noqa: S704  escaped


def environment(**options: Any) -> Environment:
    """Jinja2 for the templates of this folder; each value in them is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=StrictUndefined, **options
    )


def render(template: str, **context: Any) -> str:
    """Fills a template in Markdown."""
    markdown = environment(finalize=escape, keep_trailing_newline=True)
    functions = interval, metric, number, score, signed, weakest
    named = {function.__name__: function for function in functions}
    markdown.filters |= named | {"thousands": "{:,}".format}
    markdown.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f} %"
    markdown.globals |= named | {"few": FEW_IMAGES, "metrics": METRICS, "formats": FORMATS}
    return markdown.get_template(template).render(context)


def verdict(ranking: Networks, differences: Mapping[tuple[str, ...], Difference] | None) -> str:
    """Whether the first network is better than the second, by how much, and how sure that is.

    `differences` are those of the two; None if there is one network only.
    """
    best, *others = ranking
    results, value = best.results, number(best.results.mean_iou)
    if differences is None:
        return (
            f"{best.title} has a mean IoU of {value}{interval(results.intervals.mean_iou)} on"
            f" {best.tested}; the baseline, the most frequent class at each position, has"
            f" {number(results.baseline.mean_iou)}."
        )
    gap, low, high = differences["mean_iou",]
    numbers = (
        f"{value} against {number(others[0].results.mean_iou)} on {best.tested}, a difference of"
        f" {signed(gap)} with a paired 95 % interval from {signed(low)} to {signed(high)}"
    )
    other = f"{others[0].title}{', the next best' * (len(others) > 1)}"
    if results.images < FEW_IMAGES:
        return (
            f"{best.title} has the higher mean IoU, {numbers}; with so few images neither the"
            f" interval nor the order of {best.title} and {other} is to be trusted."
        )
    sure = low > 0 or high < 0
    return (
        f"{best.title} is {'' if sure else 'not clearly '}better than {other}: its mean IoU is"
        f" {numbers}, which {'excludes' if sure else 'includes'} zero."
    )


def slices(networks: Networks) -> dict[str, dict[str, list[Slice]]]:
    """By the group's title and the slice's label, a slice for each network; best breeds first."""
    found = {}
    for group in ("species", "pet_size", "breed"):
        rows = []
        for name, part in networks[0].results.slices[group].items():
            low, high = (round(100 * share) for share in part.pet_share)
            size = f", {low}{NONE}{high} % of image" if group == "pet_size" else ""
            parts = [network.results.slices[group][name] for network in networks]
            rows.append((name.replace("_", " ") + size, parts))
        if group == "breed":
            rows.sort(key=lambda row: -sum(part.mean_iou for part in row[1]))
        if rows:
            found[group.replace("_", " ").capitalize()] = dict(rows)
    return found


def weakest(network: Network) -> list[tuple[str, Slice]]:
    """The five slices with the lowest mean IoU, of those that are not of few images."""
    groups = slices([network]).items()
    found = [(f"{group}: {label}", p) for group, rows in groups for label, (p,) in rows.items()]
    return sorted((row for row in found if not row[1].few), key=lambda row: row[1].mean_iou)[:5]


def score(network: Network, path: tuple[str, ...], networks: Networks) -> Markup:
    """A metric with its interval, bold where no other network has a better one."""
    value = metric(network.results, path)
    defined = [v for n in networks if (v := metric(n.results, path)) is not None]
    best = min if path[0] in LOWER_IS_BETTER else max
    strong = "**" if len(networks) > 1 and value is not None and value == best(defined) else ""
    ends = interval(metric(network.results.intervals, path))
    return Markup(f"{strong}{number(value)}{strong}{ends}")  # noqa: S704  numbers alone


def number(value: float | None) -> str:
    """A metric with three decimals."""
    return NONE if value is None or math.isnan(value) else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign; none before a zero."""
    text = number(value)
    if value is None or text == NONE or float(text) == 0:
        return text.lstrip("-")
    return f"{value:+.3f}".replace("-", MINUS)


def interval(ends: Sequence[float | None], form: Callable = number) -> Markup:
    """An interval in brackets after a space; nothing if it is undefined."""
    low, high = map(form, ends)
    return Markup("" if NONE in (low, high) else f" ({low} to {high})")  # noqa: S704  numbers
