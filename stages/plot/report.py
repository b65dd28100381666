"""The texts of the report: Jinja2 templates in Markdown, and the sentences and cells in them."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.metrics.comparison import Difference
from stages.metrics.results import FEW_IMAGES, Interval, Slice
from stages.plot.inputs import Network, Networks, metric
from stages.records.classes import CLASS_NAMES

NONE = "\N{EN DASH}"
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


def render(template: str, **context: Any) -> str:
    """Fills a Markdown template of this folder; escapes all values."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=escape,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"metric": metric, "number": number, "percent": percent, "words": words}
    environment.filters["thousands"] = "{:,}".format
    environment.globals |= {"score": score, "interval": interval, "difference": difference}
    environment.globals |= {"few": FEW_IMAGES, "metrics": METRICS, "formats": FORMATS}
    environment.globals["weakest"] = weakest
    return environment.get_template(template).render(context)


def verdict(ranking: Networks, differences: Mapping[tuple[str, ...], Difference] | None) -> str:
    """Which network is better, by how much, and how sure that is, in one sentence.

    Args:
        ranking: The networks, the best first.
        differences: The best less the next; None of one network.
    """
    best, *others = ranking
    results = best.results
    images = f"{results.images:,} test image{'s' * (results.images != 1)}"
    if differences is None:
        gap = results.mean_iou - results.baseline.mean_iou
        return (
            f"{best.title} has a mean IoU of {number(results.mean_iou)} on {images} (95 % interval"
            f" {' to '.join(map(number, results.intervals.mean_iou))}), {number(abs(gap))}"
            f" {'below' if gap < 0 else 'above'} the {number(results.baseline.mean_iou)} of the"
            " baseline, which has learned nothing but the most frequent class at each position."
        )
    gaps = differences["mean_iou",]
    numbers = (
        f"{number(results.mean_iou)} against {number(others[0].results.mean_iou)} on {images},"
        f" a difference of {signed(gaps.value)} with a paired 95 % interval from"
        f" {signed(gaps.low)} to {signed(gaps.high)}"
    )
    next_best = f"{others[0].title}{', the next best' * (len(others) > 1)}"
    if results.images < FEW_IMAGES:
        return (
            f"{best.title} has the higher mean IoU, {numbers}; with so few images neither the"
            f" interval nor the order of {best.title} and {next_best} is to be trusted."
        )
    better, side = ("", "excludes") if gaps.excludes_zero else ("not clearly ", "includes")
    return (
        f"{best.title} is {better}better than {next_best}: its mean IoU is {numbers}, which"
        f" {side} zero."
    )


def slices(networks: Networks) -> dict[str, dict[str, list[Slice]]]:
    """By the group's title and the slice's label, a slice for each network; best breeds first."""
    found: dict[str, dict[str, list[Slice]]] = {}
    for group in ("species", "pet_size", "breed"):
        parts = networks[0].results.slices.get(group, {})
        rows = {name: [n.results.slices[group][name] for n in networks] for name in parts}
        if group == "breed":
            rows = dict(sorted(rows.items(), key=lambda row: -sum(s.mean_iou for s in row[1])))
        if rows:
            found[words(group).capitalize()] = {
                f"{words(name)}{_range(row[0]) if group == 'pet_size' else ''}": row
                for name, row in rows.items()
            }
    return found


def weakest(network: Network) -> list[tuple[str, Slice]]:
    """The five slices with the lowest mean IoU, of those that are not of few images."""
    found = [
        (f"{group}: {label}", part)
        for group, rows in slices([network]).items()
        for label, (part,) in rows.items()
        if not part.few
    ]
    return sorted(found, key=lambda row: row[1].mean_iou)[:5]


def score(network: Network, path: tuple[str, ...], networks: Networks) -> Markup:
    """A metric with its interval, bold where no other network has a better one."""
    value = metric(network.results, path)
    defined = [v for n in networks if (v := metric(n.results, path)) is not None]
    best = min if path[0] in LOWER_IS_BETTER else max
    strong = "**" if len(networks) > 1 and value is not None and value == best(defined) else ""
    ends = interval(metric(network.results.intervals, path))
    return Markup(f"{strong}{number(value)}{strong}{ends}")  # noqa: S704  numbers alone


def interval(ends: Interval) -> Markup:
    """An interval in brackets after a space; nothing if it is undefined."""
    text = "" if None in ends else f" ({number(ends[0])} to {number(ends[1])})"
    return Markup(text)  # noqa: S704  numbers alone


def difference(found: Difference | None) -> str:
    """A paired difference with its interval."""
    if found is None or math.isnan(found.value):
        return NONE
    ends = "" if math.isnan(found.low) else f" ({signed(found.low)} to {signed(found.high)})"
    return signed(found.value) + ends


def number(value: float | None) -> str:
    """A metric with three decimals."""
    return NONE if value is None else f"{value:.3f}"


def percent(part: float, whole: float = 1, digits: int = 1) -> str:
    """A share."""
    return f"{100 * part / max(whole, 1):.{digits}f} %"


def signed(value: float) -> str:
    """A difference with its sign; none before a zero."""
    text = f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
    return text.lstrip("+\N{MINUS SIGN}") if float(text[1:]) == 0 else text


def words(name: str) -> str:
    """A name of the dataset, such as a breed, as words."""
    return name.replace("_", " ")


def _range(part: Slice) -> str:
    low, high = (round(100 * share) for share in part.pet_share)
    return f", {low}{NONE}{high} % of image"
