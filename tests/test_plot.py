import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from matplotlib.colors import to_hex
from PIL import Image

from stages.metrics import comparison
from stages.metrics.boundary import boundary_counts, silhouette
from stages.metrics.calibration import image_reliability_counts
from stages.metrics.confusion import confusion_matrices, mean_iou
from stages.params import flat
from stages.plot import __main__ as plot
from stages.plot import figures, page, report
from stages.plot.report import title
from stages.records.classes import CLASS_COLORS, CLASS_NAMES, NETWORK_COLORS, class_rgb
from stages.records.manifest import (
    EXAMPLES_FILE,
    Manifest,
    Split,
    file_sha256,
    read_arrays,
    write_manifest,
)
from stages.run_record import RECORDS_FOLDER
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ["conv_deconv", "unet"]
SIDE = 16
IMAGES = 24
# Breed and file names that would do harm if they were taken for markup.
HOSTILE = (
    "<script>alert(1)</script>",
    'x" onerror="alert(2)|<img src=x>',
    "](https://evil.example) `a` **b** $c_1$ &amp; www.evil.example",
)


def write_inputs(folder: Path, networks: dict[str, float], *, hostile: bool = False) -> Manifest:
    """Writes all that `plot` reads, of a few drawn masks.

    Args:
        folder: An empty folder.
        networks: By name, the share of pixels that the network gets wrong.
        hostile: Whether names are full of markup.
    """
    # TensorFlow takes seconds to import, and only the tests may need it.
    from stages.evaluate.__main__ import write_json, write_masks, write_pictures, write_rows  # noqa: PLC0415
    from stages.evaluate.measurement import Measurement, Picture  # noqa: PLC0415
    from stages.evaluate.results import image_rows, results  # noqa: PLC0415

    breeds = list(HOSTILE) if hostile else ["tabby", "grey_hound", "rare"]
    manifest = Manifest(
        dataset="synthetic_pets",
        version="1.0.0",
        image_size=SIDE,
        train_image_size=SIDE,
        class_names=list(CLASS_NAMES),
        label_names=breeds,
        species_names=["Cat", "Dog"],
        splits={
            name: Split(
                examples=count,
                class_shares=dict(zip(CLASS_NAMES, (0.3, 0.6, 0.1), strict=True)),
                shards=[],
            )
            for name, count in (("train", 30), ("validation", 5), ("test", IMAGES))
        },
        other_files={},
    )
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["networks"] = list(networks)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    records, metrics, runs = folder / "data/records", folder / "metrics", folder / RECORDS_FOLDER
    for path in (records, metrics, runs):
        path.mkdir(parents=True)
    generator = np.random.default_rng(0)
    # A disc in each picture, larger from picture to picture, with a border.
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    distance = np.hypot(rows, columns) - np.linspace(2, 8, IMAGES)[:, None, None]
    masks = np.where(distance < 0, 0, np.where(distance < 1, 2, 1)).astype(np.uint8)
    images = generator.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    names = [f"{HOSTILE[i % 3]}{i}.jpg" if hostile else f"pet_{i}.jpg" for i in range(IMAGES)]
    np.savez(
        records / "examples.npz",
        train_images=images[:5], train_masks=masks[:5], train_names=names[:5],
        test_images=images[:2], test_masks=masks[:2], test_names=names[:2],
    )  # fmt: skip
    checksums = {"examples.npz": file_sha256(records / "examples.npz")}
    manifest = manifest.model_copy(update={"other_files": checksums})
    write_manifest(manifest, records)
    # 15 and 7 pictures, and 2 of the last breed.
    labels = np.repeat([0, 1, 2], [15, 7, 2])
    for network, wrong in networks.items():
        noise = generator.random(masks.shape) < wrong
        predicted = np.where(noise, (masks + 1) % 3, masks).astype(np.uint8)
        always = np.ones_like(masks)
        matrices = confusion_matrices(masks, predicted, 3)
        scores = mean_iou(matrices)
        pictures = [Picture(i, images[i], masks[i], predicted[i]) for i in range(IMAGES)]
        measurement = Measurement(
            file_names=names,
            labels=labels,
            species=labels % 2,
            losses=np.full(IMAGES, wrong),
            matrices=matrices,
            boundaries=boundary_counts(silhouette(masks), silhouette(predicted)),
            reliability=image_reliability_counts(
                generator.uniform(0.34, 1, masks.shape).astype(np.float32), predicted == masks
            ),
            baseline_matrices=confusion_matrices(masks, always, 3),
            baseline_boundaries=boundary_counts(silhouette(masks), silhouette(always)),
            worst=[pictures[i] for i in np.argsort(scores, kind="stable")[:2]],
            best=[pictures[i] for i in np.argsort(-scores, kind="stable")[:2]],
        )
        write_json(results(measurement, manifest, 0), metrics / f"{network}.json")
        exported = {"bytes": 1000, "agreement": 0.99, "mean_iou": 0.5, "iou_loss": 0.001}
        write_rows(
            [{"format": kind, "images": IMAGES, **exported} for kind in ("keras", "litert_int8")],
            metrics / f"{network}.exports.csv",
        )
        write_rows(image_rows(measurement, manifest), metrics / f"{network}.images.csv")
        write_masks(predicted[:2], metrics / f"{network}.examples.png")
        write_pictures(measurement.worst, metrics / f"{network}.worst.png")
        write_pictures(measurement.best, metrics / f"{network}.best.png")
        history = _history(3)
        epochs = [
            dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)
        ]
        write_rows(epochs, metrics / f"{network}.history.csv")
        record = {
            "stage": f"train@{network}", "seconds": 95.2, "python": "3.11.0", "system": "Linux",
            "packages": {"keras": "3.15.0"}, "processor": "A processor", "cores": 2, "gpus": [],
        }  # fmt: skip
        (runs / f"train@{network}.json").write_text(json.dumps(record))
    return manifest


def _history(epochs: int) -> dict[str, list[float]]:
    columns = ("loss", "accuracy", "val_loss", "val_accuracy", "val_mean_iou")
    return {"epoch": list(range(1, epochs + 1))} | {
        name: list(np.linspace(0.9, 0.1 * number, epochs)) for number, name in enumerate(columns)
    }


def _masks(seed: int, images: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (images, 8, 8), dtype=np.uint8)


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the other stages leave for `plot`, of two networks; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, {"conv_deconv": 0.3, "unet": 0.1})
    return folder


@pytest.fixture
def workspace(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `inputs` to work in."""
    monkeypatch.chdir(tmp_path)
    _copy(inputs, tmp_path)
    return tmp_path


def _findings(networks: list[str]) -> report.Findings:
    return plot.read_findings(networks, plot.read_manifest(), 0)


def _text(networks: list[str]) -> str:
    return page.markdown(report.document(_findings(networks)))


def _tables(markdown: str) -> list[list[list[str]]]:
    """The cells of all tables, their headers first."""
    tables: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("| "):
            if not line.startswith("| ---"):
                tables[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def test_the_report_has_its_pictures_and_the_same_bytes_every_time(workspace: Path) -> None:
    plot.main()
    reports = workspace / "reports"
    first = {path.name: path.read_bytes() for path in reports.iterdir()}
    outs = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["plot"]["outs"]
    assert {f"reports/{name}" for name in first} == {path for out in outs for path in out}
    text = first["README.md"].decode()
    for name in first:
        assert name.endswith((".md", ".html")) or f"({name})" in text
    plot.main()
    assert {path.name: path.read_bytes() for path in reports.iterdir()} == first


def test_the_exports_are_side_by_side_with_their_latency_where_it_is_known(
    workspace: Path,
) -> None:
    record = json.loads((workspace / ".dvc/tmp/stages/train@unet.json").read_text())
    record |= {"stage": "export@unet", "latency_ms": {"litert_int8": 7.25}}
    (workspace / ".dvc/tmp/stages/export@unet.json").write_text(json.dumps(record))
    (table,) = [rows for rows in _tables(_text(NETWORKS)) if rows[0][0] == "Export"]
    assert table[1:] == [
        ["Conv-Deconv, Keras", "0.00 MB", "99.00 %", "0.5000", "not recorded"],
        ["Conv-Deconv, LiteRT int8", "0.00 MB", "99.00 %", "0.5000", "not recorded"],
        ["U-Net, Keras", "0.00 MB", "99.00 %", "0.5000", "not recorded"],
        ["U-Net, LiteRT int8", "0.00 MB", "99.00 %", "0.5000", "7.2 ms"],
    ]


def test_the_table_says_what_the_metrics_say(workspace: Path) -> None:
    header, *rows = _tables(_text(NETWORKS))[0]
    assert header == ["Figure", "Conv-Deconv", "U-Net", "Baseline", "U-Net − Conv-Deconv"]  # noqa: RUF001
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    unet = json.loads((workspace / "metrics/unet.json").read_text())
    other = json.loads((workspace / "metrics/conv_deconv.json").read_text())
    low, high = unet["intervals"]["mean_iou"]
    cell = table["Mean IoU"]
    assert cell["U-Net"] == f"**{unet['mean_iou']:.3f}** ({low:.3f} to {high:.3f})"
    assert cell["Conv-Deconv"].startswith(f"{other['mean_iou']:.3f} (")
    assert cell["Baseline"] == f"{unet['baseline']['mean_iou']:.3f}"
    difference = float(cell[header[-1]].split()[0])
    assert difference == pytest.approx(unet["mean_iou"] - other["mean_iou"], abs=6e-4)
    assert table["Loss"]["U-Net"].startswith("**0.100**")
    assert table["Loss"]["Baseline"] == "–"  # noqa: RUF001
    assert table["IoU pet"]["Baseline"] == "0.000"
    assert len(rows) == 13


def test_the_verdict_names_the_better_network_and_the_paired_interval(workspace: Path) -> None:
    findings = _findings(NETWORKS)
    verdict = report.verdict(findings)
    assert verdict.startswith("U-Net is better than Conv-Deconv: its mean IoU is 0.")
    assert verdict.endswith("which excludes zero.")
    assert findings.differences is not None
    gap = findings.differences["mean_iou",]
    assert gap.low < gap.value < gap.high
    assert f"a difference of +{gap.value:.3f}" in verdict
    assert f"interval from +{gap.low:.3f} to +{gap.high:.3f}" in verdict
    between = gap._replace(low=-0.01, high=0.02)
    unclear = report.verdict(findings._replace(differences={("mean_iou",): between}))
    assert unclear.startswith("U-Net is not clearly better than Conv-Deconv")
    assert unclear.endswith("−0.010 to +0.020, which includes zero.")  # noqa: RUF001


def test_one_network_is_set_against_the_baseline(workspace: Path) -> None:
    text = _text(["unet"])
    assert "**U-Net has a mean IoU of 0." in text
    assert "Conv-Deconv" not in text
    assert _tables(text)[0][0] == ["Figure", "U-Net", "Baseline"]


def test_of_three_networks_the_best_is_set_against_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = {"conv_deconv": 0.3, "wide": 0.05, "unet": 0.1}
    write_inputs(tmp_path, networks)
    findings = _findings(list(networks))
    assert report.verdict(findings).startswith("wide is better than U-Net, the next best: ")
    text = page.markdown(report.document(findings))
    assert _tables(text)[0][0][1:4] == ["Conv-Deconv", "wide", "U-Net"]
    examples = read_arrays(Path("data/records"), findings.manifest, EXAMPLES_FILE)
    predictions = {title(name): plot.read_masks(name, (2, SIDE, SIDE)) for name in networks}
    strips = {
        kind: {name: plot.read_strips(name, kind, findings) for name in networks}
        for kind in ("worst", "best")
    }
    drawn = plot.draw(findings, examples, predictions, strips)
    assert len(drawn["confusion"].axes) == 4
    for figure in drawn.values():
        plt.close(figure)


def test_slices_under_ten_pictures_are_marked_and_breeds_come_best_first(workspace: Path) -> None:
    tables = {table[0][0]: table for table in _tables(_text(NETWORKS))}
    counts = {row[0]: row[1] for row in tables["Breed"][1:]}
    assert counts == {"tabby": "15", "grey hound": r"7 \*", "rare": r"2 \*"}
    scores = [sum(float(cell.split()[0]) for cell in row[2:4]) for row in tables["Breed"][1:]]
    assert scores == sorted(scores, reverse=True)
    assert tables["Breed"][0][-1] == "Baseline"
    measured = json.loads((workspace / "metrics" / "unet.json").read_text())["slices"]["breed"]
    for row in tables["Breed"][1:]:
        assert float(row[-1]) == pytest.approx(
            measured[row[0].replace(" ", "_")]["baseline_mean_iou"], abs=6e-4
        )
    assert [row[0].split(",")[0] for row in tables["Pet size"][1:]] == ["small", "medium", "large"]


def test_worst_and_best_are_the_pictures_that_evaluate_keeps() -> None:
    from stages.evaluate.measurement import Picture, _keep  # noqa: PLC0415

    # Ties all over: 40 pictures of 4 kinds.
    right = np.random.default_rng(3).integers(0, 4, 40)
    matrices = np.array([[[n, 4 - n, 0], [0, 5, 0], [0, 0, 5]] for n in right])
    table = comparison.ImageTable([], [], [], np.empty(0), np.empty((0, 3)), matrices)
    empty = np.empty(0, np.uint8)
    for kind, sign in (("worst", -1), ("best", 1)):
        heap: list[Any] = []
        for position, score in enumerate(mean_iou(matrices)):
            _keep(heap, sign * score, Picture(position, empty, empty, empty), 15)
        expected = [entry[2].position for entry in sorted(heap, reverse=True)]
        assert comparison.extremes(table, 15)[kind] == expected


@pytest.mark.parametrize("damage", ["missing", "empty", "damaged"])
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
        ("metrics/unet.best.png", "evaluate@unet"),
    ],
)
def test_a_missing_or_damaged_file_names_the_stage_that_makes_it(
    workspace: Path, file: str, stage: str, damage: str
) -> None:
    path = workspace / file
    # In the middle of a line: a table that ends with a whole row may be a whole table.
    half = path.read_bytes()[: path.stat().st_size // 2].rstrip(b"\n")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(half if damage == "damaged" else b"")
    with pytest.raises(StageError, match=f"{file}.*`dvc repro -f {stage}`"):
        plot.main()
    assert not (workspace / "reports").exists()


def test_networks_measured_on_other_pictures_are_not_compared(workspace: Path) -> None:
    path = workspace / "metrics/unet.images.csv"
    path.write_text(path.read_text().replace("pet_3.jpg", "pet_99.jpg"))
    with pytest.raises(StageError, match=r"unet\.images\.csv and .* different test pictures"):
        plot.main()


def test_without_a_note_a_stage_has_no_time(workspace: Path) -> None:
    tables = {table[0][0]: table for table in _tables(_text(NETWORKS))}
    times = dict(tables["Stage"][1:])
    assert times["`train@unet`"] == "1 min 35 s"
    assert times["`prepare`"] == "not recorded"
    assert ["GPU", "none"] in tables["What"]


def _git(*arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def test_changed_parameters_are_listed_with_the_command_that_repeats_them(workspace: Path) -> None:
    assert plot.committed_params() is None
    _git("init")
    assert plot.committed_params() is None
    _git("add", "params.yaml")
    _git("commit", "-m", "parameters")
    text = _text(NETWORKS)
    assert "All parameters are those of the committed params.yaml." in text
    assert "\ndvc repro\n" in text
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["epochs"] += 1
    params["unet"]["learning_rate"] = 0.5
    Path("params.yaml").write_text(yaml.safe_dump(params))
    text = _text(NETWORKS)
    assert f"| `epochs` | `{params['epochs'] - 1}` | `{params['epochs']}` |" in text
    command = f"dvc exp run -S epochs={params['epochs']} -S unet.learning_rate=0.5"
    assert f"\n{command}\n" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"train_split": "train[:32]", "seed": 3},
        {"networks": ["unet"], "augmentation": {"horizontal_flip": False}},
        {"dataset": "oxford_iiit_pet:4.0.0", "precision": "mixed_float16"},
        {"unet": {"learning_rate": 0.25, "encoder_weights": 'a b/it\'s "$x".h5'}},
        {"dataset": "true", "test_split": "1e3"},
        {"new": {"learning_rate": 0.1}},
    ],
)
def test_dvc_reads_the_command_as_it_is_meant(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = yaml.safe_load((ROOT / "params.yaml").read_text())
    wanted = committed | {
        key: committed.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    command = report.command(flat(wanted), flat(committed))
    # The shell's own view of the words.
    shown = subprocess.run(
        ["sh", "-c", command.replace("dvc exp run", "printf '%s\\0'")],
        check=True, capture_output=True, text=True,
    ).stdout.split("\0")[:-1]  # fmt: skip
    assert shown[::2] == ["-S"] * len(shown[::2])
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(committed))
    apply_overrides(str(path), shown[1::2])
    assert yaml.safe_load(path.read_text()) == wanted


def test_pictures_keep_the_colours_of_classes_and_networks_exactly() -> None:
    rainbow = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    wanted = [*CLASS_COLORS.values(), *NETWORK_COLORS, "#ffffff"]
    for row, color in enumerate(wanted):
        rainbow[row, :] = tuple(bytes.fromhex(color[1:]))
    saved = Image.open(io.BytesIO(figures.png(Image.fromarray(rainbow))))
    assert saved.mode == "P"
    assert not saved.info
    np.testing.assert_array_equal(
        np.array(saved.convert("RGB"))[: len(wanted)], rainbow[: len(wanted)]
    )


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
