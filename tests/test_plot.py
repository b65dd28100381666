import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from PIL import Image

from stages.metrics import confusion
from stages.metrics.comparison import Difference
from stages.metrics.results import COUNT_COLUMNS, Results, confusion_of
from stages.params import NetworkParams, Params, load_params
from stages.plot import __main__ as plot
from stages.plot import figures, report
from stages.plot.inputs import HISTORY_COLUMNS, Network, read_networks
from stages.records.classes import CLASS_COLORS, CLASS_NAMES, NETWORK_COLORS, class_rgb
from stages.records.manifest import Manifest, Split, file_sha256, write_manifest
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
SIDE = 32
IMAGES = 24
TWO = {"conv_deconv": 0.3, "unet": 0.1}
BOUNDARY = ("boundary_f_1px", "boundary_f_2px", "boundary_f_3px")
# Breed and file names that would do harm if they were taken for markup.
HOSTILE = [
    "<script>alert(1)</script>",
    'x" onerror="alert(2)|<img src=x>',
    "](https://evil.example) `a` **b** $c_1$ &amp; www.evil.example",
]


def write_inputs(folder: Path, networks: dict[str, float], *, hostile: bool = False) -> Params:
    """Writes all that `plot` reads.

    Args:
        folder: An empty folder.
        networks: By name, the share of pixels that the network gets wrong.
        hostile: Whether names are full of markup.
    """
    records = folder / "data/records"
    records.mkdir(parents=True)
    (folder / "metrics").mkdir()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    masks = images[..., 0] % 3
    np.savez(
        records / "examples.npz",
        train_images=images, train_masks=masks, test_images=images[:2], test_masks=masks[:2],
    )  # fmt: skip
    splits = {
        name: Split(examples=count, class_shares=dict.fromkeys(CLASS_NAMES, 1 / 3), shards=[])
        for name, count in (("train", 3000), ("validation", 5), ("test", IMAGES))
    }
    manifest = Manifest(
        dataset="synthetic_pets", version="1.0.0", image_size=SIDE, train_image_size=SIDE,
        class_names=list(CLASS_NAMES), label_names=[], species_names=["Cat", "Dog"], splits=splits,
        other_files={"examples.npz": file_sha256(records / "examples.npz")},
    )  # fmt: skip
    write_manifest(manifest, records)
    breeds = HOSTILE if hostile else ["tabby", "grey_hound", "rare"]
    for name, wrong in networks.items():
        _write_network(folder / "metrics" / name, wrong, breeds, HOSTILE if hostile else ["pet_"])
    params = load_params(ROOT / "params.yaml")
    own = {name: NetworkParams(learning_rate=0.1) for name in networks.keys() - params.groups()}
    return params.model_copy(update={"networks": list(networks), **own})


def _write_network(path: Path, wrong: float, breeds: list[str], names: list[str]) -> None:
    generator = np.random.default_rng(round(100 * wrong))
    found = np.full((3, 3), wrong / 2) + (1 - 1.5 * wrong) * np.eye(3)
    shares = (np.array([[0.3], [0.6], [0.1]]) * found).ravel()
    pixels = generator.multinomial(SIDE**2, shares, IMAGES)
    table = pd.DataFrame(pixels, columns=COUNT_COLUMNS)
    counts = confusion_of(table).sum(axis=0)
    table["file_name"] = [f"{names[i % len(names)]}{i}.jpg" for i in range(IMAGES)]
    table["species"], table["breed"] = "Cat", np.repeat(breeds, [15, 7, 2])
    table["loss"] = wrong
    table[list(BOUNDARY)] = 1 - wrong
    table.to_csv(f"{path}.images.csv", index=False)
    iou = float(confusion.mean_iou(counts))
    ends = (iou - 0.01, iou + 0.01)
    by_class = dict.fromkeys(CLASS_NAMES, iou)
    metrics: dict[str, Any] = {
        "accuracy": 1 - wrong, "mean_iou": iou, "mean_image_iou": iou, "iou": by_class,
        "pet_iou": dict.fromkeys(("border_as_pet", "border_left_out"), iou),
        "boundary_f": {key.removeprefix("boundary_f_"): 1 - wrong for key in BOUNDARY},
    }  # fmt: skip
    intervals = {
        key: dict.fromkeys(value, ends) if isinstance(value, dict) else ends
        for key, value in (metrics | {"calibration_error": 0, "loss": 0}).items()
    }
    metrics |= dict.fromkeys(("dice", "precision", "recall"), by_class)
    slices: dict[str, Any] = {"species": {}, "breed": {}, "pet_size": {}}
    rows = [("species", "Cat", 24), ("pet_size", "small", 12), ("pet_size", "large", 12)]
    for group, name, count in [*rows, *zip(["breed"] * 3, breeds, (15, 7, 2), strict=True)]:
        slices[group][name] = {
            "images": count, "few": count < 10, "accuracy": 0.5, "interval": ends,
            "mean_iou": iou + len(slices[group]) / 100, "baseline_accuracy": 0.5,
            "baseline_mean_iou": 0.125, "pet_share": (0.1, 0.25),
        }  # fmt: skip
    extremes = [
        {"file_name": f"{name}{i}.jpg", "breed": breeds[i % 3], "mean_iou": iou}
        for i, name in enumerate(names * (2 // len(names) or 1))
    ]
    results: dict[str, Any] = {
        **metrics, "images": IMAGES, "loss": wrong, "calibration_error": 0.01,
        "intervals": intervals, "confusion_matrix": counts.tolist(), "slices": slices,
        "baseline": metrics | {"mean_iou": 0.2, "iou": by_class | {"border": None}},
        "worst": extremes, "best": extremes,
        "reliability": {
            "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 0.8], "pixels": [0, 10, 30]
        },
    }  # fmt: skip
    Results.model_validate(results).write(path.with_suffix(".json"))
    history = {name: np.linspace(0.9, 0.4, 3) for name in HISTORY_COLUMNS} | {"epoch": [1, 2, 3]}
    pd.DataFrame(history).to_csv(f"{path}.history.csv", index=False)
    exports = {"format": ["keras", "litert_int8"], "images": IMAGES, "bytes": [2345678, 1000]}
    exports |= {"agreement": [1, 0.99], "mean_iou": 0.5, "iou_loss": [0, 0.001]}
    pd.DataFrame(exports).to_csv(f"{path}.exports.csv", index=False)
    strips = generator.integers(0, 256, (len(extremes) * SIDE, 3 * SIDE, 3), dtype=np.uint8)
    for kind in ("worst", "best"):
        Image.fromarray(strips).save(f"{path}.{kind}.png")
    Image.fromarray(strips[: 2 * SIDE, :SIDE, 0] % 3).save(f"{path}.examples.png")


def run(folder: Path, networks: dict[str, float], *, dpi: int = 30, hostile: bool = False) -> Path:
    """Runs `plot` on `write_inputs`, and returns its reports."""
    params = write_inputs(folder, networks, hostile=hostile)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plot, "load_params", lambda: params)
        patch.setitem(matplotlib.rcParams, "figure.dpi", dpi)
        plot.main()
    return folder / "reports"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs and reports of two networks; read only."""
    return run(tmp_path_factory.mktemp("two"), TWO).parent


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of two networks, and the working directory."""
    params = write_inputs(tmp_path, TWO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "load_params", lambda: params)
    monkeypatch.setitem(matplotlib.rcParams, "figure.dpi", 30)
    return tmp_path


@pytest.fixture
def networks(workspace: Path) -> list[Network]:
    """Both networks as `plot` reads them."""
    return read_networks(list(TWO), SIDE, 2)


def _tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows of each table, by the heading of its first column."""
    tables = {}
    for block in text.split("\n\n"):
        if block.startswith("| "):
            header, _, *rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
            tables[header[0]] = [dict(zip(header, row, strict=True)) for row in rows]
    return tables


def test_the_report_names_all_its_files_and_has_the_same_bytes_again(
    written: Path, workspace: Path
) -> None:
    first = {path.name: path.read_bytes() for path in (written / "reports").iterdir()}
    text = first["README.md"].decode()
    assert len(first) == 13
    for name in first.keys() - {"README.md", "index.html"}:
        assert f"]({name})" in text or f"`{name}`" in text
    plot.main()
    assert {path.name: path.read_bytes() for path in Path("reports").iterdir()} == first


def test_the_table_says_what_the_metrics_say(written: Path) -> None:
    text = (written / "reports/README.md").read_text()
    table = {row["Metric"]: row for row in _tables(text.split("<details>")[0])["Metric"]}
    unet = Results.read(written / "metrics/unet.json", "")
    other = Results.read(written / "metrics/conv_deconv.json", "")
    cells = table["Mean IoU"]
    low, high = unet.intervals.mean_iou
    assert cells["U-Net"] == f"**{unet.mean_iou:.3f}** ({low:.3f} to {high:.3f})"
    assert cells["Conv-Deconv"].startswith(f"{other.mean_iou:.3f} (")
    assert cells["Baseline"] == "0.200"
    difference = cells["U-Net − Conv-Deconv"]  # noqa: RUF001
    assert float(difference.split()[0]) == pytest.approx(unet.mean_iou - other.mean_iou, abs=6e-4)
    # Of the loss less is better, and the baseline has none.
    assert table["Loss"]["U-Net"].startswith("**0.100**")
    assert table["Loss"]["U-Net − Conv-Deconv"].startswith("−0.200 (−0.200 to")  # noqa: RUF001
    assert table["Loss"]["Baseline"] == table["IoU border"]["Baseline"] == "–"  # noqa: RUF001
    assert len(table) == 13


@pytest.mark.parametrize(
    ("low", "images", "start", "end"),
    [
        (0.1, 24, "U-Net is better than Conv-Deconv: its mean IoU is 0.", "which excludes zero."),
        (-0.1, 24, "U-Net is not clearly better than Conv-Deconv", "which includes zero."),
        (0.1, 9, "U-Net has the higher mean IoU, ", "is to be trusted."),
    ],
)
def test_the_verdict_goes_by_the_paired_interval(
    networks: list[Network], low: float, images: int, start: str, end: str
) -> None:
    object.__setattr__(networks[1].results, "images", images)
    gap = Difference(0.15, low, 0.2)
    verdict = report.verdict(networks[::-1], {("mean_iou",): gap})
    assert verdict.startswith(start)
    assert verdict.endswith(end)
    assert f"from {low:+.3f} to +0.200".replace("-", "−") in verdict  # noqa: RUF001


def test_one_network_is_compared_with_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.plot.figures.render", lambda figure: Image.new("RGB", (9, 9)))
    text = (run(tmp_path, {"unet": 0.1}) / "README.md").read_text()
    assert "**U-Net has a mean IoU of 0." in text
    assert "of the baseline" in text
    assert "Conv-Deconv" not in text
    assert "| Metric | U-Net | Baseline |\n" in text


def test_slices_of_few_images_are_marked_and_breeds_come_best_first(written: Path) -> None:
    tables = _tables((written / "reports/README.md").read_text())
    counts = {row["Breed"]: row["Images"] for row in tables["Breed"]}
    assert list(counts.items()) == [("rare", r"2 \*"), ("grey hound", r"7 \*"), ("tabby", "15")]
    assert tables["Pet size"][0]["Pet size"] == "small, 10–25 % of image"  # noqa: RUF001
    assert {row["Baseline"] for row in tables["Species"]} == {"0.125"}


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("data/records/manifest.json", "prepare"),
        ("data/records/examples.npz", "prepare"),
        ("metrics/unet.json", "evaluate@unet"),
        ("metrics/unet.images.csv", "evaluate@unet"),
        ("metrics/unet.exports.csv", "export@unet"),
        ("metrics/unet.history.csv", "train@unet"),
        ("metrics/unet.examples.png", "evaluate@unet"),
        ("metrics/unet.worst.png", "evaluate@unet"),
    ],
)
def test_a_missing_or_damaged_file_names_the_stage_that_makes_it(
    workspace: Path, file: str, stage: str
) -> None:
    path = workspace / file
    # In the middle of a line: a table that ends with a whole row may be a whole table.
    half = path.read_bytes()[: path.stat().st_size // 2].rstrip(b"\n")
    for damage in (half, b"", None):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(StageError, match=f"{file}.*`dvc repro -f {stage}`"):
            plot.main()
    assert not (workspace / "reports").exists()


def test_networks_measured_on_different_images_are_not_compared(workspace: Path) -> None:
    path = workspace / "metrics/unet.images.csv"
    path.write_text(path.read_text().replace("pet_3.jpg", "pet_99.jpg"))
    command = "`dvc repro -f evaluate@conv_deconv evaluate@unet`"
    with pytest.raises(StageError, match=f"unet.images.csv .*different test images.*{command}"):
        plot.main()


def test_what_was_run_has_the_manifest_and_every_parameter(written: Path) -> None:
    text = (written / "reports/README.md").read_text()
    shown = {row["Parameter"].replace("\\", ""): row["Value"] for row in _tables(text)["Parameter"]}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert shown["export.max_iou_loss"] == str(params["export"]["max_iou_loss"])
    assert shown["networks"] == r'\["conv\_deconv", "unet"\]'
    assert len(shown) == sum(len(v) if isinstance(v, dict) else 1 for v in params.values())
    assert f"`{file_sha256(written / 'data/records/manifest.json')}`" in text
    assert "3,000 train, 5 validation, 24 test images" in text


def test_the_card_says_what_the_network_is_and_where_it_fails(written: Path) -> None:
    _, front, body = (written / "reports/unet.card.md").read_text().split("---\n", 2)
    results = Results.read(written / "metrics/unet.json", "")
    found = yaml.safe_load(front)
    assert found["license"] == "other"
    (entry,) = found["model-index"][0]["results"]
    assert entry["dataset"]["type"] == "synthetic_pets"
    assert [m["value"] for m in entry["metrics"]] == [results.mean_iou, results.accuracy]
    tables = _tables(body)
    assert tables["Metric"][1]["Value and interval"].startswith(f"{results.mean_iou:.3f} (")
    # Of ten images or more alone, the lowest first.
    slices = [row["Slice"].split(",")[0] for row in tables["Slice"]]
    assert slices == ["Species: Cat", "Pet size: small", "Breed: tabby", "Pet size: large"]
    files = {row["File"]: (row["Bytes"], row["Mean IoU"]) for row in tables["File"]}
    assert files == {"unet.keras": ("2,345,678", "0.5000"), "unet.int8.tflite": ("1,000", "0.5000")}


def test_curves_show_training_and_validation_over_whole_epochs(networks: list[Network]) -> None:
    for epochs in (1, 2, 40):
        for network in networks:
            history = pd.DataFrame({name: np.linspace(1, 2, epochs) for name in HISTORY_COLUMNS})
            history["epoch"] = range(1, epochs + 1)
            object.__setattr__(network, "history", history)
        figure = figures.draw_curves(networks)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ["Conv-Deconv", "U-Net", "training", "validation"]
        for axis in figure.axes:
            lines = [(line.get_color(), line.get_linestyle()) for line in axis.get_lines()]
            assert lines == [
                (color, style) for color in NETWORK_COLORS[:2] for style in ("--", "-")
            ]
            low, high = axis.get_xlim()
            ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)
        points = np.asarray(figure.axes[1].get_lines()[3].get_xydata())
        np.testing.assert_array_equal(points, networks[1].history[["epoch", "val_accuracy"]])


def test_predictions_are_in_their_columns_and_in_the_class_colors(
    networks: list[Network],
) -> None:
    images = np.full((2, SIDE, SIDE, 3), 77, np.uint8)
    figure = figures.draw_predictions(images, np.zeros((2, SIDE, SIDE), np.uint8), networks)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["Input", "True mask", "U-Net", "Conv-Deconv"]
    shown = [axis.get_images()[0].get_array() for axis in axes[1]]
    np.testing.assert_array_equal(shown[0], images[1])
    np.testing.assert_array_equal(shown[2], class_rgb()[networks[1].predictions[1]])
    colors = [to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()]
    assert colors == list(CLASS_COLORS.values())


def test_confusion_matrices_are_in_per_cent_of_the_true_class(networks: list[Network]) -> None:
    matrix = [[3, 1, 0], [0, 5, 5], [0, 0, 0]]
    object.__setattr__(networks[0].results, "confusion_matrix", matrix)
    (axis,) = figures.draw_confusion(networks[:1]).axes
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["75.0 %", "25.0 %", "0.0 %", "0.0 %", "50.0 %", "50.0 %", *["0.0 %"] * 3]


def test_plot_imports_neither_tensorflow_nor_mlflow() -> None:
    code = "import sys, stages.plot.__main__\nprint({'tensorflow', 'mlflow'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert shown.stdout.strip() == b"set()"
