import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from stages import figures, plot
from stages.errors import StageError
from stages.manifest import CLASS_NAMES, Manifest, Split
from stages.palette import CLASS_COLORS, NETWORK_COLORS, class_rgb

MANIFEST = Manifest(
    dataset="synthetic_pets",
    version="1.0.0",
    image_size=8,
    class_names=list(CLASS_NAMES),
    label_names=[],
    species_names=[],
    splits={
        name: Split(examples=count, class_shares={}, shards=[])
        for name, count in (("train", 30), ("validation", 5), ("test", 12))
    },
)


def _metrics(accuracy: float, mean_iou: float, border: float | None = 0.25) -> dict[str, Any]:
    return {
        "images": 12,
        "loss": 0.5,
        "accuracy": accuracy,
        "mean_iou": mean_iou,
        "iou": {"pet": 0.5, "background": 0.75, "border": border},
        "dice": {"pet": 0.625, "background": 0.875, "border": border},
        "confusion_matrix": [[50, 30, 20], [0, 200, 0], [10, 10, 20]],
    }


def _history(epochs: int) -> dict[str, list[float]]:
    columns = ("loss", "accuracy", "val_loss", "val_accuracy")
    return {"epoch": list(range(1, epochs + 1))} | {
        name: list(np.linspace(0.9, 0.1 * number, epochs)) for number, name in enumerate(columns)
    }


def _masks(seed: int, images: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (images, 8, 8), dtype=np.uint8)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the other stages leave for `plot`, of two networks and two test pictures."""
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).resolve().parents[1]
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    records, metrics = tmp_path / "data" / "records", tmp_path / "metrics"
    records.mkdir(parents=True)
    metrics.mkdir()
    (records / "manifest.json").write_text(MANIFEST.model_dump_json())
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(
        records / "examples.npz",
        train_images=images,
        train_masks=_masks(0),
        test_images=images,
        test_masks=_masks(1),
    )
    for seed, name in enumerate(("conv_deconv", "unet")):
        (metrics / f"{name}.json").write_text(json.dumps(_metrics(0.7 + seed / 10, 0.4 + seed / 5)))
        history = _history(3)
        lines = [
            ",".join(history),
            *(",".join(map(str, row)) for row in zip(*history.values(), strict=True)),
        ]
        (metrics / f"{name}.history.csv").write_text("\n".join(lines) + "\n")
        picture = Image.fromarray(_masks(seed).reshape(-1, 8)).convert("P")
        picture.putpalette(class_rgb().tobytes())
        picture.save(metrics / f"{name}.examples.png")
    return tmp_path


def test_the_report_has_its_pictures_and_the_same_bytes_every_time(workspace: Path) -> None:
    plot.main()
    reports = workspace / "reports"
    first = {path.name: path.read_bytes() for path in reports.iterdir()}
    assert set(first) == {
        "README.md", "samples.png", "curves.png", "predictions.png", "confusion.png",
    }  # fmt: skip
    page = first["README.md"].decode()
    for name in first:
        assert name == "README.md" or f"({name})" in page
    plot.main()
    assert {path.name: path.read_bytes() for path in reports.iterdir()} == first


def test_the_table_says_what_the_metrics_say() -> None:
    results = {"conv_deconv": _metrics(0.7, 0.4, None), "unet": _metrics(0.81, 0.62)}
    lines = plot.report(MANIFEST, results).splitlines()
    assert lines[2].startswith("U-Net is best: mean IoU 0.620 and pixel accuracy 0.810 on 12")
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    header, *cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    table = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in cells}
    assert table["Conv-Deconv"]["IoU border"] == "-"
    assert table["U-Net"] == {
        "accuracy": "0.810", "mean IoU": "0.620", "IoU pet": "0.500", "IoU background": "0.750",
        "IoU border": "0.250", "Dice pet": "0.625", "Dice background": "0.875",
        "Dice border": "0.250", "loss": "0.500",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("metrics/unet.json", "evaluate@unet"),
        ("metrics/unet.history.csv", "train@unet"),
        ("metrics/unet.examples.png", "evaluate@unet"),
    ],
)
def test_a_missing_file_names_the_stage_that_makes_it(
    workspace: Path, file: str, stage: str
) -> None:
    (workspace / file).unlink()
    with pytest.raises(StageError, match=f"{file}.*{stage}"):
        plot.main()
    assert not (workspace / "reports").exists()


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_epochs_are_whole_numbers_on_the_axis(epochs: int) -> None:
    figure = figures.draw_curves({"U-Net": _history(epochs), "Conv-Deconv": _history(epochs)})
    for axis in figure.axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_curves_show_training_and_validation_of_both_networks_with_one_legend() -> None:
    histories = {"Conv-Deconv": _history(5), "U-Net": _history(5)}
    figure = figures.draw_curves(histories)
    assert len(figure.legends) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Conv-Deconv", "U-Net", "training", "validation"]
    for axis, column in zip(figure.axes, ("loss", "accuracy"), strict=True):
        drawn = {(line.get_color(), line.get_linestyle()): line for line in axis.get_lines()}
        assert set(drawn) == {
            (color, style) for color in NETWORK_COLORS[:2] for style in ("-", "--")
        }
        history = histories["U-Net"]
        points = np.asarray(drawn[NETWORK_COLORS[1], "-"].get_xydata()).tolist()
        expected = zip(history["epoch"], history[f"val_{column}"], strict=True)
        assert points == [list(point) for point in expected]


def test_predictions_are_in_their_columns_and_in_the_colours_of_the_classes() -> None:
    images = np.full((2, 8, 8, 3), 77, np.uint8)
    shown = {"U-Net": _masks(1), "Conv-Deconv": _masks(2)}
    figure = figures.draw_predictions(images, _masks(0), shown)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["Input", "True mask", "U-Net", "Conv-Deconv"]
    np.testing.assert_array_equal(axes[1, 0].get_images()[0].get_array(), images[1])
    np.testing.assert_array_equal(
        axes[1, 2].get_images()[0].get_array(), class_rgb()[shown["U-Net"][1]]
    )
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == list(CLASS_NAMES)
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == list(
        CLASS_COLORS.values()
    )


def test_confusion_matrices_are_in_per_cent_of_the_true_class() -> None:
    figure = figures.draw_confusion(
        {"U-Net": np.array([[3, 1, 0], [0, 5, 5], [0, 0, 0]])}, CLASS_NAMES
    )
    (axis,) = figure.axes
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["75.0 %", "25.0 %", "0.0 %", "0.0 %", "50.0 %", "50.0 %", *["0.0 %"] * 3]


def test_plot_imports_neither_tensorflow_nor_mlflow() -> None:
    code = (
        "import sys, stages.plot;"
        "sys.exit(bool({'tensorflow', 'keras', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
