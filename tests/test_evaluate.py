"""The stage from its inputs to the files that `dvc.yaml` declares."""

import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from stages.evaluate import __main__ as evaluate
from stages.metrics.results import Results, confusion_of, read_images
from stages.networks.model_file import load_model, save_model
from stages.records.classes import class_rgb
from stages.records.manifest import EXAMPLES_FILE, RECORDS_FOLDER
from stages.records.tfrecords import load_split
from stages.stage import StageError
from tests.small_records import SIDE, write_records

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 5


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage has run; read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    logged = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["evaluate", "unet"])
        patch.setattr(evaluate, "log_evaluation", lambda *values: logged.append(values))
        shutil.copy(ROOT / "params.yaml", folder)
        RECORDS_FOLDER.mkdir(parents=True)
        manifest = write_records(RECORDS_FOLDER, IMAGES)
        keras.utils.set_random_seed(3)
        images = keras.Input((SIDE, SIDE, 3))
        scaled = keras.layers.Rescaling(1 / 64)(images)
        model = keras.Model(images, keras.layers.Conv2D(3, 3, padding="same")(scaled))
        evaluate.MODELS_FOLDER.mkdir()
        save_model(model, evaluate.MODELS_FOLDER / "unet.keras")
        evaluate.main()
    ((network, _, of_records, model_path),) = logged
    assert (network, of_records, model_path) == ("unet", manifest, Path("models/unet.keras"))
    return folder


def test_metrics_and_the_table_of_images_say_the_same(evaluated: Path) -> None:
    found = Results.read(evaluated / "metrics/unet.json", "evaluate@unet")
    table = read_images(evaluated / "metrics/unet.images.csv", "evaluate@unet")
    assert found.images == len(table) == IMAGES
    np.testing.assert_array_equal(confusion_of(table).sum(axis=0), found.confusion_matrix)
    assert found.loss == pytest.approx(table["loss"].mean(), abs=1e-6)
    assert table["breed"].tolist() == ["tabby", "beagle", 'a,"b"', "tabby", "beagle"]
    order = table["mean_iou"].sort_values(kind="stable").index
    assert [row.file_name for row in found.worst] == table["file_name"][order].tolist()[:4]
    summary = json.loads((evaluated / "metrics/unet.summary.json").read_text())
    headlines = {"accuracy": found.accuracy, "mean_iou": found.mean_iou}
    assert summary == {"unet": headlines | {"boundary_f": found.boundary_f["2px"]}}


def test_pictures_are_rows_of_image_mask_and_prediction(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_images(evaluated / "metrics/unet.images.csv", "evaluate@unet")
    monkeypatch.chdir(evaluated)
    manifest = evaluate.read_manifest()
    model = load_model(Path("models/unet.keras"))
    images, masks = load_split(RECORDS_FOLDER, manifest, "test")
    place = int(table["mean_iou"].argmin())
    parts = [masks[place], np.asarray(model(images[[place]])).argmax(axis=-1)[0]]
    expected = np.concatenate([images[place], *(class_rgb()[part] for part in parts)], axis=1)
    rows = np.asarray(Image.open("metrics/unet.worst.png"))
    assert rows.shape == (4 * SIDE, 3 * SIDE, 3)
    np.testing.assert_array_equal(rows[:SIDE], expected)
    examples = np.load(RECORDS_FOLDER / EXAMPLES_FILE)["test_images"]
    column = Image.open("metrics/unet.examples.png")
    assert column.mode == "P"
    predicted = np.asarray(model(examples)).argmax(axis=-1)
    np.testing.assert_array_equal(np.asarray(column).reshape(predicted.shape), predicted)


def test_missing_and_damaged_files_are_named_with_what_makes_them(
    evaluated: Path, tmp_path: Path
) -> None:
    written, table = (
        (evaluated / f"metrics/unet.{suffix}").read_bytes() for suffix in ("json", "images.csv")
    )
    for read, content in [
        (Results.read, None),
        (Results.read, written[: len(written) // 2]),
        (Results.read, written.replace(b'"loss": ', b'"loss": "x", "y": ', 1)),
        (read_images, None),
        (read_images, table[:-1]),
        (read_images, table[: table.index(b"\n") + 1]),
        (read_images, table.replace(b",0.", b",x.")),
        (read_images, table.replace(b"loss", b"cost")),
        (read_images, b"\xff\xfe\x00"),
    ]:
        path = tmp_path / "file"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StageError) as error:
            read(path, "evaluate@unet")
        assert str(error.value) == (
            f"{path} is missing or damaged; `dvc repro -f evaluate@unet` makes it again"
        )
