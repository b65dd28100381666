"""The report's figures; on a phone, too, their text is legible."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stages.metrics.results import Slice
from stages.plot.inputs import Examples, Networks, metric
from stages.plot.report import LOWER_IS_BETTER, METRICS
from stages.records.classes import CLASS_COLORS, CLASS_NAMES, NEUTRAL, class_rgb

SIDE = 1.25  # inches, of an image in a grid
WIDTH = 4.4  # inches, of a chart
SAMPLE_COLUMNS = 4  # at most

matplotlib.style.use(Path(__file__).with_name("report.mplstyle"))


def draw_samples(examples: Examples) -> Figure:
    """Training images above their masks."""
    both = examples["train_images"], class_rgb()[examples["train_masks"]]
    parts = math.ceil(len(both[0]) / SAMPLE_COLUMNS)
    pairs = zip(*(np.array_split(pixels, parts) for pixels in both), strict=True)
    return _grid([row for pair in pairs for row in pair])


def draw_predictions(examples: Examples, networks: Networks) -> Figure:
    """A row for each test image: image, true mask, and the predictions, the last network first."""
    shown = networks[::-1]
    masks = examples["test_masks"], *(network.predictions for network in shown)
    columns = [examples["test_images"], *(class_rgb()[mask] for mask in masks)]
    figure = _grid(list(zip(*columns, strict=True)))
    titles = ["Input", "True mask", *(network.title for network in shown)]
    for axis, title in zip(figure.axes, titles, strict=False):
        axis.set_title(title)
    return figure


def draw_strips(networks: Networks, kind: str) -> Figure:
    """The "worst" or "best" images of each network: image, true mask and prediction."""
    strips = [strip for network in networks for strip in getattr(network, kind)]
    gaps = np.repeat([1, 2], 3) * len(strips[0])  # white, of three pixels
    figure = _grid([[np.insert(strip, gaps, 255, axis=1)] for strip in strips], SIDE + 0.2)
    extremes = [(network, e) for network in networks for e in getattr(network.results, kind)]
    for axis, (network, extreme) in zip(figure.axes, extremes, strict=True):
        label = f"{network.title}: {extreme.file_name:.36}, {extreme.mean_iou:.3f}"
        axis.set_title(label, loc="left", size=8, weight="normal", color=network.color)
    return figure


def draw_curves(networks: Networks) -> Figure:
    """Loss and accuracy of each epoch; a dot marks the epoch whose weights were kept."""
    figure = Figure(figsize=(WIDTH, 6))
    for axis, column in zip(figure.subplots(2, 1), ("loss", "accuracy"), strict=True):
        for network in networks:
            history, kept, color = network.history, network.kept, network.color
            marker = "o" if len(history) == 1 else ""
            for name, style, width in ((column, "--", 1.2), (f"val_{column}", "-", 2)):
                axis.plot("epoch", name, style, data=history, color=color, lw=width, marker=marker)
            axis.scatter(kept["epoch"], kept[f"val_{column}"], 34, color, ec="white", zorder=3)
        axis.set(xlabel="Epoch", ylabel={"loss": "Loss"}.get(column, "Pixel accuracy"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = [(n.color, "-", n.title) for n in networks]
    lines += [(NEUTRAL, "--", "training"), (NEUTRAL, "-", "validation")]
    _legend(figure, [Line2D([], [], color=c, ls=ls, label=label) for c, ls, label in lines], 2)
    return figure


def draw_comparison(networks: Networks) -> Figure:
    """Metrics from 0 to 1 as dots with intervals; the baseline as a cross."""
    metrics = {label: path for label, path in METRICS if path[0] not in LOWER_IS_BETTER}
    figure = Figure(figsize=(WIDTH, 0.3 * len(metrics) + 0.9))
    axis = figure.subplots()
    baseline = [metric(networks[0].results.baseline, path) for path in metrics.values()]
    axis.plot(np.array(baseline, float), range(len(metrics)), "x", color=NEUTRAL, label="baseline")
    rows = [
        [(metric(n.results, path), *metric(n.results.intervals, path)) for n in networks]
        for path in metrics.values()
    ]
    _draw_rows(axis, list(metrics), rows, networks)
    axis.set_xlim(0, 1)
    _legend(figure, [*_network_dots(networks), *axis.lines], 4)
    return figure


def draw_confusion(networks: Networks) -> Figure:
    """A confusion matrix for each network, in per cent of the pixels of each true class."""
    figure = Figure(figsize=(WIDTH, 3.3 * len(networks)))
    axes = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    ticks = range(len(CLASS_NAMES))
    for axis, network in zip(axes, networks, strict=True):
        matrix = np.array(network.results.confusion_matrix)
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (true, predicted), share in np.ndenumerate(shares):
            color = "white" if share > 55 else "black"
            axis.text(predicted, true, f"{share:.1f} %", ha="center", va="center", color=color)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set(xlabel="Predicted", ylabel="True")
        axis.set_title(network.title, color=network.color)
        axis.set_xticks(ticks, CLASS_NAMES)
        axis.set_yticks(ticks, CLASS_NAMES, rotation=90, va="center")
    return figure


def draw_reliability(networks: Networks) -> Figure:
    """Accuracy over confidence, and the share of the pixels in each bin of confidence."""
    figure = Figure(figsize=(WIDTH, 5.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.1])
    diagonal = above.plot([0, 1], [0, 1], ":", color=NEUTRAL, label="perfect calibration")
    for index, network in enumerate(networks):
        curve, color = network.results.reliability, network.color
        points = np.array([curve.confidence, curve.accuracy], float)
        above.plot(*points[:, np.isfinite(points[0])], "o-", color=color, lw=1.6)
        shares = 100 * np.array(curve.pixels) / sum(curve.pixels)
        bins, width = len(shares), 0.86 / len(shares) / len(networks)
        left = (np.arange(bins) + 0.07) / bins + index * width
        below.bar(left, shares, width, align="edge", color=color)
    above.set(ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="Confidence", ylabel="Pixels, %")
    _legend(figure, [*_network_dots(networks), *diagonal], 3)
    return figure


def draw_slices(networks: Networks, groups: dict[str, dict[str, list[Slice]]]) -> Figure:
    """Mean IoU of `report.slices` with intervals; an asterisk for slices of few images."""
    heights = [len(slices) + 1.2 for slices in groups.values()]
    figure = Figure(figsize=(WIDTH, 0.21 * sum(heights) + 0.8))
    axes = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axis, (group, slices) in zip(axes.flat, groups.items(), strict=True):
        labels = [f"{label:.36} ({s[0].images}{'*' * s[0].few})" for label, s in slices.items()]
        rows = [[(part.mean_iou, *part.interval) for part in parts] for parts in slices.values()]
        _draw_rows(axis, labels, rows, networks)
        axis.set_title(group, loc="left")
    axes[-1, 0].set_xlabel("Mean IoU")
    _legend(figure, _network_dots(networks), 3)
    return figure


def png(figure: Figure) -> bytes:
    """A figure, cut to what is drawn, in 256 colors; drawn again it has the same bytes."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pil_kwargs={"compress_level": 1})
    Image.open(drawn).convert("RGB").quantize(256).save(small, "png", optimize=True)
    return small.getvalue()


def _grid(rows: Sequence[Any], height: float = SIDE) -> Figure:
    """Images [height, width, 3] in rows, of which the first is the longest."""
    figure = Figure(figsize=(SIDE * max(len(rows[0]), 3), height * len(rows) + 0.5))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image)
    _legend(figure, [Patch(color=color, label=name) for name, color in CLASS_COLORS.items()], 3)
    return figure


def _draw_rows(axis: Axes, labels: list[str], rows: Any, networks: Networks) -> None:
    """Draws dots and intervals, [row, network, (value, low, high)], of each row a little apart."""
    gap = min(0.26, 0.7 / len(networks))
    for index, (network, cells) in enumerate(zip(networks, np.swapaxes(rows, 0, 1), strict=True)):
        values, low, high = cells.astype(float).T
        places = np.arange(len(rows)) + (index - (len(networks) - 1) / 2) * gap
        axis.hlines(places, low, high, color=network.color, clip_on=False)
        axis.scatter(values, places, 20, network.color, clip_on=False, zorder=3)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(False, axis="y")


def _network_dots(networks: Networks) -> list[Line2D]:
    return [Line2D([], [], color=n.color, marker="o", label=n.title) for n in networks]


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
