"""The report and the model cards, from what the stages before `plot` write."""

import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stages.evaluate.__main__ import write_masks, write_pictures
from stages.evaluate.results import results
from stages.metrics.results import Results
from stages.params import NetworkParams, load_params
from stages.plot import __main__ as plot
from stages.plot import figures, report
from stages.plot.inputs import Network, read_network
from stages.records.classes import CLASS_COLORS, CLASS_NAMES, NETWORK_COLORS, class_rgb
from stages.records.manifest import Split, file_sha256, write_manifest
from tests.stub_stages import write_history
from tests.test_results import MANIFEST, SIDE, measured

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path("data/records")
IMAGES = 24
TWO = {"conv_deconv": 0.3, "unet": 0.1}
FIGURES = (
    "comparison", "curves", "confusion", "reliability", "slices",
    "predictions", "worst", "best", "samples",
)  # fmt: skip
# Breed and file names that would do harm if they were taken for markup.
HOSTILE = [
    "<script>alert(1)</script>",
    'x" onerror="alert(2)|<img src=x>',
    r"$\frac$ a_b ](https://evil.example) `a` **b** &amp; www.evil.example",
]


def write_inputs(networks: dict[str, float], *, hostile: bool = False) -> None:
    """Writes all that `plot` reads of networks that guess a share of the pixels."""
    rng = np.random.default_rng(0)
    RECORDS.mkdir(parents=True)
    images = rng.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    masks = images[..., 0] % 3
    np.savez(
        RECORDS / "examples.npz",
        train_images=images, train_masks=masks, test_images=images[:2], test_masks=masks[:2],
    )  # fmt: skip
    shares = dict.fromkeys(CLASS_NAMES, 1 / 3)
    splits = {
        name: Split(examples=count, class_shares=shares, shards=[])
        for name, count in (("train", 3000), ("validation", 5), ("test", IMAGES))
    }
    breeds = HOSTILE if hostile else ["tabby", "grey_hound", "rare"]
    files = {"examples.npz": file_sha256(RECORDS / "examples.npz")}
    own = {"label_names": breeds, "splits": splits, "other_files": files}
    manifest = MANIFEST.model_copy(update=own)
    write_manifest(manifest, RECORDS)
    shutil.copy(ROOT / "params.yaml", ".")
    Path("metrics").mkdir()
    masks = rng.choice(3, (IMAGES, SIDE, SIDE), p=[0.3, 0.6, 0.1]).astype(np.uint8)
    masks[:12, SIDE // 2 :] = 1
    names = [f"{HOSTILE[i % 3] if hostile else 'pet'}{i}.jpg" for i in range(IMAGES)]
    columns = {"file_name": names, "breed": np.repeat(breeds, [15, 7, 2])}
    for name, guessed in networks.items():
        path = Path("metrics", name)
        guesses = rng.choice(3, masks.shape).astype(np.uint8)
        predictions = np.where(rng.random(masks.shape) < guessed, guesses, masks)
        predictions[-2:] = guesses[-2:]  # a slice of few images is the worst
        measurement = measured(masks, predictions, **columns, loss=guessed)
        results(measurement, manifest, seed=0).write(path.with_suffix(".json"))
        measurement.images.to_csv(path.with_suffix(".images.csv"), index=False)
        write_pictures(measurement.worst, path.with_suffix(".worst.png"))
        write_pictures(measurement.best, path.with_suffix(".best.png"))
        write_masks(predictions[:2], path.with_suffix(".examples.png"))
        write_history(name, 3)
        exports = {"format": ["keras", "litert_int8"], "bytes": [2345678, 1000], "mean_iou": 0.5}
        table = pd.DataFrame(exports | {"agreement": [1, 0.99]})
        table.to_csv(path.with_suffix(".exports.csv"), index=False)


def run(folder: Path, networks: dict[str, float], *, hostile: bool = False) -> str:
    """Runs `plot` in an empty folder, and returns the report; if not `hostile`, without figures."""
    params = load_params(ROOT / "params.yaml")
    own = {name: NetworkParams(learning_rate=0.1) for name in networks.keys() - params.groups()}
    params = params.model_copy(update={"networks": list(networks), **own})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plot, "load_params", lambda: params)
        patch.setitem(matplotlib.rcParams, "figure.dpi", 30)
        if not hostile:
            patch.setattr(plot, "draw", lambda *_: dict.fromkeys(FIGURES, Figure((1, 1))))
        write_inputs(networks, hostile=hostile)
        plot.main()
    return (folder / "reports/README.md").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs and reports of two networks; read only."""
    folder = tmp_path_factory.mktemp("two")
    run(folder, TWO)
    return folder


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    """The report of `written`."""
    return (written / "reports/README.md").read_text()


@pytest.fixture
def networks(written: Path, monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """Both networks as `plot` reads them."""
    monkeypatch.chdir(written)
    return [read_network(name, place, SIDE) for place, name in enumerate(TWO)]


def _tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows of each table, by the heading of its first column."""
    tables = {}
    for block in text.split("\n\n"):
        if block.startswith("| "):
            header, _, *rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
            tables[header[0]] = [dict(zip(header, row, strict=True)) for row in rows]
    return tables


def test_the_table_says_what_the_metrics_say(written: Path, text: str) -> None:
    table = {row["Metric"]: row for row in _tables(text.partition("<details>")[0])["Metric"]}
    other, unet = (Results.read(written / f"metrics/{name}.json", "") for name in TWO)
    cells = table["Mean IoU"]
    low, high = unet.intervals.mean_iou
    assert cells["U-Net"] == f"**{unet.mean_iou:.3f}** ({low:.3f} to {high:.3f})"
    assert cells["Conv-Deconv"].startswith(f"{other.mean_iou:.3f} (")
    assert cells["Baseline"] == f"{unet.baseline.mean_iou:.3f}"
    difference = cells["U-Net − Conv-Deconv"]  # noqa: RUF001
    assert float(difference.split()[0]) == pytest.approx(unet.mean_iou - other.mean_iou, abs=6e-4)
    # Of the loss less is better, and the baseline has none.
    assert table["Loss"]["U-Net"].startswith("**0.100**")
    assert table["Loss"]["U-Net − Conv-Deconv"].startswith("−0.200 (−0.200 to")  # noqa: RUF001
    assert table["Loss"]["Baseline"] == "–"  # noqa: RUF001
    assert len(table) == 13


def test_the_verdict_goes_by_the_paired_interval(networks: list[Network]) -> None:
    for low, images, start, end in (
        (0.1, 24, "U-Net is better than Conv-Deconv: its mean IoU is 0.", "which excludes zero."),
        (-0.1, 24, "U-Net is not clearly better than Conv-Deconv", "which includes zero."),
        (0.1, 9, "U-Net has the higher mean IoU, ", "is to be trusted."),
    ):
        object.__setattr__(networks[1].results, "images", images)
        verdict = report.verdict(networks[::-1], {("mean_iou",): (0.15, low, 0.2)})
        assert verdict.startswith(start)
        assert verdict.endswith(end)
        assert f"from {low:+.3f} to +0.200".replace("-", "−") in verdict  # noqa: RUF001


def test_one_network_is_compared_with_the_baseline(tmp_path: Path) -> None:
    text = run(tmp_path, {"unet": 0.1})
    assert re.search(r"\*\*U-Net has a mean IoU of 0\.\d+ \(.* on 24 .* the baseline, ", text)
    assert "Conv-Deconv" not in text
    assert "| Metric | U-Net | Baseline |\n" in text


def test_slices_of_few_images_are_marked_and_breeds_come_best_first(
    networks: list[Network], text: str
) -> None:
    tables = _tables(text)
    counts = {row["Breed"]: row["Images"] for row in tables["Breed"]}
    assert counts == {"rare": r"2 \*", "grey hound": r"7 \*", "tabby": "15"}
    of_both = [network.results.slices["breed"] for network in networks]
    breeds = sorted(of_both[0], key=lambda name: -sum(rows[name].mean_iou for rows in of_both))
    assert [row["Breed"].replace(" ", "_") for row in tables["Breed"]] == breeds
    low, high = networks[0].results.slices["pet_size"]["small"].pet_share
    size = f"small, {100 * low:.0f}–{100 * high:.0f} % of image"  # noqa: RUF001
    assert tables["Pet size"][0]["Pet size"] == size


def test_what_was_run_has_the_manifest_and_every_parameter(written: Path, text: str) -> None:
    shown = {row["Parameter"].replace("\\", ""): row["Value"] for row in _tables(text)["Parameter"]}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert shown["export.max_iou_loss"] == str(params["export"]["max_iou_loss"])
    assert shown["networks"] == r'\["conv\_deconv", "unet"\]'
    assert len(shown) == sum(len(v) if isinstance(v, dict) else 1 for v in params.values())
    assert f"`{file_sha256(written / RECORDS / 'manifest.json')}`" in text
    assert "3,000 train, 5 validation, 24 test images" in text


def test_the_card_says_what_the_network_is_and_where_it_fails(written: Path) -> None:
    _, front, body = (written / "reports/unet.card.md").read_text().split("---\n", 2)
    results = Results.read(written / "metrics/unet.json", "")
    found = yaml.safe_load(front)
    assert found["license"] == "other"
    (entry,) = found["model-index"][0]["results"]
    assert [m["value"] for m in entry["metrics"]] == [results.mean_iou, results.accuracy]
    tables = _tables(body)
    assert tables["Metric"][1]["Value and interval"].startswith(f"{results.mean_iou:.3f} (")
    # Of ten images or more alone, the lowest first.
    parts = [part for rows in results.slices.values() for part in rows.values() if not part.few]
    lowest = sorted(f"{part.mean_iou:.3f}" for part in parts)[:5]
    assert results.slices["breed"]["rare"].mean_iou < float(lowest[0])
    assert [row["Mean IoU"].split(" ")[0] for row in tables["Slice"]] == lowest
    files = {row["File"]: (row["Bytes"], row["Mean IoU"]) for row in tables["File"]}
    assert files == {"unet.keras": ("2,345,678", "0.5000"), "unet.int8.tflite": ("1,000", "0.5000")}


@pytest.mark.parametrize("epochs", [1, 40])
def test_curves_show_training_and_validation_over_whole_epochs(
    networks: list[Network], epochs: int
) -> None:
    history = pd.concat([networks[0].history.head(1)] * epochs).assign(epoch=range(1, epochs + 1))
    for network in networks:
        object.__setattr__(network, "history", history.reset_index())
    figure = figures.draw_curves(networks)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Conv-Deconv", "U-Net", "training", "validation"]
    for axis in figure.axes:
        lines = [(line.get_color(), line.get_linestyle()) for line in axis.get_lines()]
        assert lines == [(color, style) for color in NETWORK_COLORS[:2] for style in ("--", "-")]
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)
    points = figure.axes[1].get_lines()[3].get_xydata()
    np.testing.assert_array_equal(points, history[["epoch", "val_accuracy"]])


def test_predictions_are_in_their_columns_and_in_the_class_colors(networks: list[Network]) -> None:
    images = np.full((2, SIDE, SIDE, 3), 77, np.uint8)
    examples = {"test_images": images, "test_masks": images[..., 0] % 3}
    figure = figures.draw_predictions(examples, networks)
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
    figure, again = (figures.draw_confusion(networks[:1]) for _ in range(2))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["75.0 %", "25.0 %", "0.0 %", "0.0 %", "50.0 %", "50.0 %", *["0.0 %"] * 3]
    # A figure that is drawn again has the same bytes.
    assert figures.png(figure) == figures.png(again)
