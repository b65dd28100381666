"""The report's figures, drawn with matplotlib from what the other stages wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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

from stages.palette import CLASS_COLORS, NETWORK_COLORS, class_rgb

Pixels = npt.NDArray[np.uint8]
History = Mapping[str, Sequence[float]]

mpl.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "axes.axisbelow": True,
    }
)


def draw_samples(images: Pixels, masks: Pixels) -> Figure:
    """Pictures above their masks.

    Args:
        images: [image, height, width, 3].
        masks: [image, height, width].
    """
    figure, axes = plt.subplots(2, len(images), figsize=(1.5 * len(images), 3.6), squeeze=False)
    colors = class_rgb()
    for column, (image, mask) in enumerate(zip(images, masks, strict=True)):
        _show(axes[0, column], image)
        _show(axes[1, column], colors[mask])
    axes[0, 0].set_ylabel("picture")
    axes[1, 0].set_ylabel("mask")
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
        len(images), columns, figsize=(1.7 * columns, 1.66 * len(images) + 0.5), squeeze=False
    )
    colors = class_rgb()
    for column, title in enumerate(["Input", "True mask", *predictions]):
        axes[0, column].set_title(title, fontsize=10)
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        shown = [image, colors[mask], *(colors[masks_[row]] for masks_ in predictions.values())]
        for axis, picture in zip(axes[row], shown, strict=True):
            _show(axis, picture)
    _class_legend(figure)
    return figure


def draw_curves(histories: Mapping[str, History]) -> Figure:
    """Loss and accuracy of each epoch, training dashed and validation solid, with one legend.

    Args:
        histories: By the network's title, the columns of its history.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    for axis, column, label in (
        (axes[0], "loss", "Cross-entropy"),
        (axes[1], "accuracy", "Pixel accuracy"),
    ):
        for history, color in zip(histories.values(), NETWORK_COLORS, strict=False):
            marker = "o" if len(history["epoch"]) == 1 else ""
            axis.plot(
                history["epoch"], history[column], color=color, ls="--", lw=1.3, marker=marker
            )
            axis.plot(history["epoch"], history[f"val_{column}"], color=color, lw=2, marker=marker)
        axis.set(xlabel="Epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = [
        Line2D([], [], color=color, lw=2, label=title)
        for title, color in zip(histories, NETWORK_COLORS, strict=False)
    ]
    lines += [
        Line2D([], [], color="#555555", ls="--", lw=1.3, label="training"),
        Line2D([], [], color="#555555", lw=2, label="validation"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def draw_confusion(
    matrices: Mapping[str, npt.NDArray[np.int64]], class_names: Sequence[str]
) -> Figure:
    """A confusion matrix for each network, in per cent of the pixels of each true class.

    Args:
        matrices: By the network's title, pixels [class (true), class (predicted)].
        class_names: The classes.
    """
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(3.6 * len(matrices) + 0.4, 3.5), squeeze=False
    )
    ticks = range(len(class_names))
    for axis, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
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
        axis.set(title=title, xlabel="Predicted", xticks=ticks, yticks=ticks)
        axis.set_xticklabels(class_names)
        axis.set_yticklabels(class_names, rotation=90, va="center")
    axes[0, 0].set_ylabel("True")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, without the date and version that would change its bytes."""
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _show(axis: Axes, picture: Pixels) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _class_legend(figure: Figure) -> None:
    patches = [Patch(color=color, label=name) for name, color in CLASS_COLORS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
