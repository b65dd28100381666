"""The report's figures; none is wider than a phone shows with legible text."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stages.metrics.results import Extreme, Slice
from stages.plot.inputs import Network, Pixels, metric
from stages.records.classes import CLASS_COLORS, CLASS_NAMES, NEUTRAL, class_rgb

# Inches: the side of an image in a grid, and the width of a chart by whether it is for phones.
SIDE = 1.2
WIDTHS = {False: 5.0, True: 3.7}
# At most, of the grid of training images.
SAMPLE_COLUMNS = 4

matplotlib.style.use(Path(__file__).with_name("report.mplstyle"))


def draw_samples(images: Pixels, masks: Pixels) -> Figure:
    """Images [image, height, width, 3] above their masks [image, height, width]."""
    lines = math.ceil(len(images) / SAMPLE_COLUMNS)
    columns = math.ceil(len(images) / lines)
    rows: list[Sequence[Pixels]] = []
    for start in range(0, len(images), columns):
        shown = slice(start, start + columns)
        rows += [list(images[shown]), list(class_rgb()[masks[shown]])]
    return _grid(rows)


def draw_predictions(images: Pixels, masks: Pixels, networks: Sequence[Network]) -> Figure:
    """A row for each image: input, true mask, and each network's prediction, the last first."""
    shown = networks[::-1]
    columns = [images, *(class_rgb()[m] for m in (masks, *(n.predictions for n in shown)))]
    titles = ["Input", "True mask", *(network.title for network in shown)]
    return _grid(list(zip(*columns, strict=True)), titles)


def draw_strips(networks: Sequence[Network], kind: str) -> Figure:
    """The worst or best images of each network: image, true mask and prediction."""
    rows: list[tuple[Network, int, Extreme]] = [
        (network, place, extreme)
        for network in networks
        for place, extreme in enumerate(getattr(network.results, kind))
    ]
    height = len(rows) * (SIDE + 0.22) + 0.3 * len(networks) + 0.5
    figure = _tight(Figure(figsize=(3 * SIDE + 0.1, height)))
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for index, (axis, (network, place, extreme)) in enumerate(zip(axes, rows, strict=True)):
        parts = np.split(getattr(network, kind)[place], 3, axis=1)
        axis.imshow(np.concatenate([np.pad(p, [(0, 0), (0, 3), (0, 0)], constant_values=255)
                                    for p in parts], axis=1)[:, :-3])  # fmt: skip
        axis.set_axis_off()
        label = f"{_shortened(extreme.file_name)}  ·  {extreme.mean_iou:.3f}"
        if place == 0:  # room for the network's name
            label = ("\n\n" if index else "\n") + label
            axis.annotate(
                network.title, (0, 1), xytext=(0, 17), xycoords="axes fraction",
                textcoords="offset points", fontsize=10, fontweight="bold", color=network.color,
            )  # fmt: skip
        axis.set_title(label, fontsize=8, fontweight="normal", loc="left", pad=3)
    return figure


def draw_curves(networks: Sequence[Network], *, narrow: bool = False) -> Figure:
    """Loss and accuracy of each epoch; a dot marks the epoch whose weights were kept."""
    figure = Figure(figsize=(4.2, 6.2) if narrow else (7.6, 3.5))
    axes = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    for axis, column, label in zip(
        axes, ("loss", "accuracy"), ("Loss", "Pixel accuracy"), strict=True
    ):
        for network in networks:
            history, kept, color = network.history, network.kept, network.color
            marker = "o" if len(history) == 1 else ""
            for name, style, width in ((column, "--", 1.2), (f"val_{column}", "-", 2)):
                axis.plot(
                    history["epoch"], history[name], color=color, ls=style, lw=width, marker=marker
                )
            axis.scatter(
                kept["epoch"], kept[f"val_{column}"], s=34, color=color, ec="white", zorder=3
            )
        axis.set(xlabel="Epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = [Line2D([], [], color=n.color, lw=2, label=n.title) for n in networks]
    lines += [
        Line2D([], [], color=NEUTRAL, ls="--", lw=1.2, label="training"),
        Line2D([], [], color=NEUTRAL, lw=2, label="validation"),
    ]
    _legend(figure, lines, 2 if narrow else 6)
    return figure


def draw_comparison(
    networks: Sequence[Network],
    metrics: Sequence[tuple[str, tuple[str, ...]]],
    *,
    narrow: bool = False,
) -> Figure:
    """Metrics from 0 to 1, by label and path, as dots with intervals; the baseline as a cross."""
    figure = Figure(figsize=(WIDTHS[narrow], 0.3 * len(metrics) + 0.9))
    axis = figure.subplots()
    cross = {"ls": "", "marker": "x", "ms": 5, "mew": 1.4, "color": NEUTRAL}
    baseline = networks[0].results.baseline
    values = _numbers([metric(baseline, path) for _, path in metrics])
    axis.plot(values, np.arange(len(metrics)), **cross)
    for index, network in enumerate(networks):
        results = network.results
        values = _numbers([metric(results, path) for _, path in metrics])
        ends = _numbers([metric(results.intervals, path) for _, path in metrics])
        _dots(axis, values, ends, index, networks)
    _label_rows(axis, [label for label, _ in metrics])
    axis.set_xlim(0, 1)
    _legend(figure, [*_network_dots(networks), Line2D([], [], label="baseline", **cross)], 4)
    return figure


def draw_confusion(networks: Sequence[Network], *, narrow: bool = False) -> Figure:
    """A confusion matrix for each network, in per cent of the pixels of each true class."""
    columns = 1 if narrow else min(len(networks), 2)
    lines = math.ceil(len(networks) / columns)
    figure = Figure(figsize=(3.3 * columns + 0.3, 3.3 * lines))
    axes = figure.subplots(lines, columns, squeeze=False)
    ticks = range(len(CLASS_NAMES))
    for axis in axes.flat[len(networks) :]:
        axis.set_axis_off()
    for place, (axis, network) in enumerate(zip(axes.flat, networks, strict=False)):
        matrix = np.array(network.results.confusion_matrix)
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (true, predicted), share in np.ndenumerate(shares):
            color = "white" if share > 55 else "black"
            axis.text(predicted, true, f"{share:.1f} %", ha="center", va="center", color=color)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_title(network.title, color=network.color)
        axis.set(xlabel="Predicted", ylabel="" if place % columns else "True")
        axis.set_xticks(ticks, CLASS_NAMES)
        axis.set_yticks(ticks, CLASS_NAMES, rotation=90, va="center")
    return figure


def draw_reliability(networks: Sequence[Network]) -> Figure:
    """Accuracy over confidence, and the share of the pixels in each bin of confidence."""
    figure = Figure(figsize=(4.4, 5.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.1])
    (diagonal,) = above.plot([0, 1], [0, 1], color=NEUTRAL, ls=":", label="perfect calibration")
    for index, network in enumerate(networks):
        curve = network.results.reliability
        confidence, accuracy = _numbers(curve.confidence), _numbers(curve.accuracy)
        filled = np.isfinite(confidence)
        above.plot(confidence[filled], accuracy[filled], color=network.color, marker="o")
        bins = len(curve.pixels)
        shares = 100 * np.array(curve.pixels) / max(sum(curve.pixels), 1)
        width = 0.86 / bins / len(networks)
        left = (np.arange(bins) + 0.07) / bins + index * width
        below.bar(left, shares, width, align="edge", color=network.color)
    above.set(ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="Confidence", ylabel="Pixels, %")
    _legend(figure, [*_network_dots(networks), diagonal], 3)
    return figure


def draw_slices(
    networks: Sequence[Network],
    groups: dict[str, dict[str, list[Slice]]],
    *,
    narrow: bool = False,
) -> Figure:
    """Mean IoU of groups of test images with intervals; hollow dots for groups of few images.

    Args:
        networks: The networks.
        groups: By the group's title and the slice's label, a slice for each network.
        narrow: For phones.
    """
    heights = [len(slices) + 1.2 for slices in groups.values()]
    figure = Figure(figsize=(WIDTHS[narrow], 0.21 * sum(heights) + 0.8))
    axes = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, (group, slices) in zip(axes, groups.items(), strict=True):
        for index, parts in enumerate(zip(*slices.values(), strict=True)):
            values = _numbers([part.mean_iou for part in parts])
            ends = _numbers([part.interval for part in parts])
            _dots(axis, values, ends, index, networks, hollow=[part.few for part in parts])
        _label_rows(
            axis,
            [
                f"{_shortened(label)} ({first.images}{'*' * first.few})"
                for label, (first, *_) in slices.items()
            ],
        )
        axis.set_title(group, loc="left")
    axes[-1].set_xlabel("Mean IoU")
    _legend(figure, _network_dots(networks), 3)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """A figure as "png" of 256 colours or as "webp"; the same figure gives the same bytes."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    image = Image.open(drawn).convert("RGB")
    if kind == "png":
        image.quantize(256).save(buffer, "png", optimize=True)
    else:
        image.save(buffer, "webp", quality=82, method=6)
    return buffer.getvalue()


def _grid(rows: Sequence[Sequence[Pixels]], titles: Sequence[str] = ()) -> Figure:
    columns = len(rows[0])
    size = ((SIDE + 0.05) * max(columns, 3), (SIDE + 0.05) * len(rows) + 0.5)
    figure = _tight(Figure(figsize=size))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title)
    return figure


def _tight(figure: Figure) -> Figure:
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    _legend(figure, [Patch(color=color, label=name) for name, color in CLASS_COLORS.items()], 3)
    return figure


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Values or pairs of values, NaN instead of None."""
    return np.array(values, np.float64)


def _dots(
    axis: Axes, values: npt.NDArray[np.float64], ends: npt.NDArray[np.float64],
    index: int, networks: Sequence[Network], hollow: Sequence[bool] = (),
) -> None:  # fmt: skip
    """Draws one network's dots, a little apart from those of the others in the same row."""
    color, count = networks[index].color, len(networks)
    places = np.arange(len(values)) + (index - (count - 1) / 2) * min(0.26, 0.7 / count)
    axis.hlines(places, *ends.T, color=color, lw=1.5, clip_on=False)
    faces = np.where(hollow, "white", color) if hollow else color
    axis.scatter(values, places, 20, facecolors=faces, edgecolors=color, clip_on=False, zorder=3)


def _label_rows(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(False, axis="y")


def _network_dots(networks: Sequence[Network]) -> list[Line2D]:
    return [Line2D([], [], color=n.color, marker="o", label=n.title) for n in networks]


def _shortened(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:24]}…{name[-11:]}"


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], columns: int) -> None:
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(columns, len(handles))
    )
