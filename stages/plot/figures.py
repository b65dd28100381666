"""The report's figures, drawn with matplotlib from what the other stages wrote.

No figure is wider than a phone shows with legible text; those of two panels can be had stacked.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stages.metrics.comparison import Reliability, SliceRow
from stages.records.classes import CLASS_COLORS, NETWORK_COLORS, NEUTRAL, class_rgb, network_color

Pixels = npt.NDArray[np.uint8]
History = Mapping[str, Sequence[float]]
# A value and the ends of its interval.
Score = tuple[float, float | None, float | None]

# Of the files: 1.5 to 2 of their pixels fall on one CSS pixel.
DPI = 150
# Inches; the side of a picture in a grid, 180 pixels.
PANEL = 1.2
# Inches; the width of a figure of one panel, and its width for narrow screens.
WIDTH = 5.0
NARROW = 3.7
# At most, of the grid of training pictures.
SAMPLE_COLUMNS = 4
INK = "#222222"
WHITE = "#ffffff"

mpl.rcParams.update(
    {
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.edgecolor": "#9a9a9a",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "axes.axisbelow": True,
        "legend.frameon": False,
        # A dollar in a breed's name is a dollar.
        "text.parse_math": False,
    }
)


class Strip(NamedTuple):
    """A test picture with its true mask and a prediction, and what is written above them."""

    pixels: Pixels  # [height, 3 width, 3]
    name: str
    score: float


def draw_samples(images: Pixels, masks: Pixels) -> Figure:
    """Pictures above their masks.

    Args:
        images: [image, height, width, 3].
        masks: [image, height, width].
    """
    lines = math.ceil(len(images) / SAMPLE_COLUMNS)
    columns = math.ceil(len(images) / lines)
    figure, axes = plt.subplots(
        2 * lines, columns, figsize=_grid_size(2 * lines, max(columns, 3)), squeeze=False
    )
    _tighten(figure)
    colors = class_rgb()
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        line, column = divmod(index, columns)
        _show(axes[2 * line, column], image)
        _show(axes[2 * line + 1, column], colors[mask])
    _class_legend(figure)
    return figure


def draw_predictions(images: Pixels, masks: Pixels, predictions: Mapping[str, Pixels]) -> Figure:
    """A grid with a row for each picture: input, true mask, and each network's prediction.

    Args:
        images: [image, height, width, 3].
        masks: [image, height, width].
        predictions: By the network's title, [image, height, width].
    """
    columns = 2 + len(predictions)
    figure, axes = plt.subplots(
        len(images), columns, figsize=_grid_size(len(images), columns), squeeze=False
    )
    _tighten(figure)
    colors = class_rgb()
    for column, title in enumerate(["Input", "True mask", *predictions]):
        axes[0, column].set_title(title)
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        shown = [image, colors[mask], *(colors[masks_[row]] for masks_ in predictions.values())]
        for axis, picture in zip(axes[row], shown, strict=True):
            _show(axis, picture)
    _class_legend(figure)
    return figure


def draw_strips(strips: Mapping[str, Sequence[Strip]]) -> Figure:
    """For each network a few pictures, each as picture, true mask and prediction.

    Args:
        strips: By the network's title; in the order of `networks`.
    """
    rows = sum(map(len, strips.values()))
    figure, axes = plt.subplots(
        rows, 1, figsize=(3 * PANEL + 0.1, rows * (PANEL + 0.22) + 0.3 * len(strips) + 0.5),
        squeeze=False,
    )  # fmt: skip
    _tighten(figure)
    place = iter(axes[:, 0])
    for index, (title, pictures) in enumerate(strips.items()):
        for number, strip in enumerate(pictures):
            axis = next(place)
            _show(axis, _spread(strip.pixels))
            label = f"{_shortened(strip.name)}  ·  {strip.score:.3f}"
            if number == 0:  # room for the network's name
                label = ("\n\n" if index else "\n") + label
            axis.set_title(label, fontsize=8, fontweight="normal", loc="left", pad=3)
            if number == 0:
                axis.annotate(
                    title, (0, 1), xytext=(0, 17), textcoords="offset points",
                    xycoords="axes fraction", fontsize=10, fontweight="bold",
                    color=network_color(index),
                )  # fmt: skip
    _class_legend(figure)
    return figure


def draw_curves(histories: Mapping[str, History], *, stacked: bool = False) -> Figure:
    """Loss and accuracy of each epoch, training dashed and validation solid, with one legend.

    A dot marks the epoch with the lowest validation loss.

    Args:
        histories: By the network's title, the columns of its history.
        stacked: One panel above the other, for narrow screens.
    """
    figure, axes = (
        plt.subplots(2, 1, figsize=(4.2, 6.2))
        if stacked
        else plt.subplots(1, 2, figsize=(7.6, 3.5))
    )
    for axis, column, label in (
        (axes[0], "loss", "Loss"),
        (axes[1], "accuracy", "Pixel accuracy"),
    ):
        for index, history in enumerate(histories.values()):
            color, epochs = network_color(index), history["epoch"]
            validation = history[f"val_{column}"]
            marker = "o" if len(epochs) == 1 else ""
            axis.plot(epochs, history[column], color=color, ls="--", lw=1.2, marker=marker)
            axis.plot(epochs, validation, color=color, lw=2, marker=marker)
            kept = kept_epoch(history)
            axis.scatter(epochs[kept], validation[kept], s=34, color=color, ec="white", zorder=3)
        axis.set(xlabel="Epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = [
        Line2D([], [], color=network_color(index), lw=2, label=title)
        for index, title in enumerate(histories)
    ]
    lines += [
        Line2D([], [], color=NEUTRAL, ls="--", lw=1.2, label="training"),
        Line2D([], [], color=NEUTRAL, lw=2, label="validation"),
    ]
    _legend(figure, lines, 2 if stacked else 6)
    return figure


def kept_epoch(history: History) -> int:
    """The place of the epoch whose weights `train` keeps: the lowest validation loss."""
    return int(np.argmin(history["val_loss"]))


def draw_comparison(
    scores: Mapping[str, Sequence[Score | None]],
    baseline: Sequence[float | None],
    labels: Sequence[str],
    *,
    width: float = WIDTH,
) -> Figure:
    """Every figure from 0 to 1 as a dot with its interval, the baseline as a cross.

    Args:
        scores: By the network's title, a score for each label; None where undefined.
        baseline: A value for each label.
        labels: What the figures are called.
        width: Inches.
    """
    figure, axis = plt.subplots(figsize=(width, 0.3 * len(labels) + 0.9))
    places = np.arange(len(labels), dtype=float)
    values_of_baseline = [np.nan if value is None else value for value in baseline]
    axis.plot(
        values_of_baseline, places, ls="", marker="x", ms=5, mew=1.4,
        color=NEUTRAL,
    )  # fmt: skip
    for index, values in enumerate(scores.values()):
        _dots(axis, places + _offset(index, len(scores)), values, network_color(index))
    axis.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6), yticks=places)
    axis.set_yticklabels(labels)
    axis.grid(False, axis="y")
    lines = [*_network_dots(scores), Line2D([], [], ls="", marker="x", mew=1.4, color=NEUTRAL)]
    lines[-1].set_label("baseline")
    _legend(figure, lines, 4)
    return figure


def draw_confusion(
    matrices: Mapping[str, npt.NDArray[np.int64]],
    class_names: Sequence[str],
    *,
    stacked: bool = False,
) -> Figure:
    """A confusion matrix for each network, in per cent of the pixels of each true class.

    Args:
        matrices: By the network's title, pixels [class (true), class (predicted)].
        class_names: The classes.
        stacked: One panel above the other, for narrow screens.
    """
    columns = 1 if stacked else min(len(matrices), 2)
    lines = math.ceil(len(matrices) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.3 * columns + 0.3, 3.3 * lines), squeeze=False
    )
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    ticks = range(len(class_names))
    for place, (axis, (title, matrix)) in enumerate(zip(axes.flat, matrices.items(), strict=False)):
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (true, predicted), share in np.ndenumerate(shares):
            axis.text(
                predicted,
                true,
                f"{share:.1f} %",
                ha="center",
                va="center",
                color="white" if share > 55 else "black",
            )
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set(title=title, xlabel="Predicted", xticks=ticks, yticks=ticks)
        axis.title.set_color(network_color(place))
        axis.set_xticklabels(class_names)
        axis.set_yticklabels(class_names, rotation=90, va="center")
        if place % columns == 0:
            axis.set_ylabel("True")
    return figure


def draw_reliability(curves: Mapping[str, Reliability]) -> Figure:
    """How often pixels are right for how sure the network is of them, and how many there are.

    Args:
        curves: By the network's title; all have the same bins, of equal width from 0 to 1.
    """
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(4.4, 5.2), sharex=True, height_ratios=[3, 1.1]
    )
    above.plot([0, 1], [0, 1], color=NEUTRAL, ls=":", lw=1.3)
    for index, curve in enumerate(curves.values()):
        filled = [place for place, pixels in enumerate(curve.pixels) if pixels]
        above.plot(
            [curve.confidence[place] for place in filled],
            [curve.accuracy[place] for place in filled],
            color=network_color(index), lw=1.6, marker="o", ms=4,
        )  # fmt: skip
        bins = len(curve.pixels)
        shares = 100 * np.array(curve.pixels) / max(sum(curve.pixels), 1)
        width = 0.86 / bins / len(curves)
        left = np.arange(bins) / bins + 0.07 / bins + index * width
        below.bar(left, shares, width, align="edge", color=network_color(index))
    above.set(ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="Confidence", ylabel="Pixels, %")
    diagonal = Line2D([], [], color=NEUTRAL, ls=":", lw=1.3, label="perfect calibration")
    _legend(figure, [*_network_dots(curves), diagonal], 3)
    return figure


def draw_slices(
    groups: Mapping[str, Sequence[SliceRow]],
    titles: Mapping[str, str],
    *,
    width: float = WIDTH,
) -> Figure:
    """Mean IoU of groups of test images with intervals; hollow dots for groups of few images.

    Args:
        groups: By the group's title, its slices with a score for each network.
        titles: By network, in the order of `networks`, what people call it.
        width: Inches.
    """
    heights = [len(rows) + 1.2 for rows in groups.values()]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(width, 0.21 * sum(heights) + 0.8), squeeze=False, sharex=True,
        height_ratios=heights,
    )  # fmt: skip
    for axis, (group, rows) in zip(axes[:, 0], groups.items(), strict=True):
        places = np.arange(len(rows), dtype=float)
        few = np.array([row.few for row in rows])
        for index, network in enumerate(titles):
            values = [row.scores[network] for row in rows]
            offset = places + _offset(index, len(titles))
            _dots(axis, offset, values, network_color(index), hollow=few)
        axis.set(ylim=(len(rows) - 0.4, -0.6), yticks=places)
        axis.set_yticklabels(
            [f"{_shortened(row.name)} ({row.images}{'*' if row.few else ''})" for row in rows]
        )
        axis.set_title(group, loc="left")
        axis.grid(False, axis="y")
    axes[-1, 0].set(xlabel="Mean IoU")
    _legend(figure, _network_dots(titles.values()), 3)
    return figure


def render(figure: Figure) -> Image.Image:
    """The pixels of a figure, cut to what is drawn; closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.03)
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def webp(drawn: Image.Image) -> bytes:
    """A picture as WebP: half of the PNG's bytes where there are photographs."""
    buffer = io.BytesIO()
    drawn.save(buffer, format="webp", quality=82, method=6)
    return buffer.getvalue()


def png(drawn: Image.Image) -> bytes:
    """A picture as a PNG of 256 colours, without date and version: the same bytes every time.

    The colours of classes and networks are kept exactly, the others approximately.
    """
    exact = [WHITE, *CLASS_COLORS.values(), *NETWORK_COLORS, NEUTRAL, INK]
    colors = [tuple(bytes.fromhex(color[1:])) for color in exact]
    rest = drawn.quantize(256 - len(colors), method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for color in colors for value in color] + rest)
    reduced = np.array(drawn.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    # Pillow's search for the nearest colour is approximate, and misses colours that are there.
    pixels = np.array(drawn).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    for index, color in enumerate(exact):
        reduced[pixels == int(color[1:], 16)] = index
    picture = Image.fromarray(reduced).convert("P")
    picture.putpalette(palette.getpalette() or [])
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _grid_size(rows: int, columns: int) -> tuple[float, float]:
    return (PANEL + 0.05) * columns, (PANEL + 0.05) * rows + 0.5


def _spread(strip: Pixels) -> Pixels:
    """Puts white between the three pictures of a strip [height, 3 width, 3]."""
    gap = np.full((len(strip), 3, 3), 255, np.uint8)
    first, second, third = np.split(strip, 3, axis=1)
    return np.concatenate([first, gap, second, gap, third], axis=1)


def _tighten(figure: Figure) -> None:
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore


def _offset(index: int, networks: int) -> float:
    """Keeps the networks' dots of one row apart."""
    return (index - (networks - 1) / 2) * min(0.26, 0.7 / networks)


def _dots(
    axis: Axes,
    places: npt.NDArray[np.floating],
    scores: Sequence[Score | None],
    color: str,
    hollow: npt.NDArray[np.bool_] | None = None,
) -> None:
    for index, (place, score) in enumerate(zip(places, scores, strict=True)):
        if score is None:
            continue
        value, low, high = score
        if low is not None and high is not None:
            axis.plot([low, high], [place, place], color=color, lw=1.5, clip_on=False)
        empty = hollow is not None and hollow[index]
        axis.plot(
            value, place, marker="o", ms=4.5, color=color, mfc=WHITE if empty else color,
            clip_on=False, zorder=3,
        )  # fmt: skip


def _network_dots(titles: Iterable[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=network_color(index), lw=1.5, marker="o", ms=4.5, label=title)
        for index, title in enumerate(titles)
    ]


def _show(axis: Axes, picture: Pixels) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _shortened(name: str, length: int = 36) -> str:
    return name if len(name) <= length else f"{name[: length - 12]}…{name[-11:]}"


def _legend(figure: Figure, lines: Sequence[Line2D | Patch], columns: int) -> None:
    figure.legend(handles=lines, loc="outside lower center", ncols=min(columns, len(lines)))


def _class_legend(figure: Figure) -> None:
    _legend(figure, [Patch(color=color, label=name) for name, color in CLASS_COLORS.items()], 3)
