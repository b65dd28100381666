"""`pets.ship` on a real repository, and the networks that ship beside their cards."""

import hashlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
import yaml
from PIL import Image

from pets import segmenter, ship
from pets.segmenter import WEIGHTS, LiteRT
from stages.export.formats import convert
from stages.metrics.confusion import confusion_matrices, mean_iou, pixel_accuracy
from stages.records.manifest import Manifest, write_manifest
from stages.records.photograph import network_input
from stages.stage import StageError

CARDS = sorted(WEIGHTS.glob("*-*.md"))


def _network(folder: Path, leaning: int) -> None:
    """Exports a network that leans toward a class, and does not look at the image."""
    images = keras.Input((128, 128, 3))
    logits = keras.layers.Conv2D(3, 1, name="logits")
    model = keras.Model(images, logits(keras.layers.Rescaling(1 / 255)(images)))
    logits.set_weights([np.zeros((1, 1, 3, 3)), 4.0 * np.eye(3)[leaning]])
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8)
    convert(model, "conv_deconv", ["litert_dynamic"], folder, noise)


def _commit(repository: Path) -> None:
    git = ["git", "-C", str(repository), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in ("add --force .", "commit --quiet --allow-empty --message=Experiment"):
        subprocess.run([*git, *command.split()], check=True)


@pytest.fixture
def repository(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one network leans toward pet; nothing ships yet."""
    shutil.copytree(records, tmp_path / "data/records")
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.setattr(segmenter, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    _network(tmp_path / "models/conv_deconv.export", leaning=0)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _ship(experiment: str, network: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ship", experiment, network])
        ship.main()


def test_a_better_network_ships_with_a_card_and_a_worse_one_does_not(
    repository: Path, manifest: Manifest
) -> None:
    _commit(repository)
    with pytest.raises(StageError, match="HEAD was measured on synthetic_pets; oxford"):
        _ship("HEAD", "conv_deconv")
    real = manifest.model_copy(update={"dataset": ship.DATASET})  # says that it is
    write_manifest(real, repository / "data/records")
    _commit(repository)
    for number, leaning in ((1, 0), (2, 1)):  # most of the drawn images is background
        _network(repository / "models/conv_deconv.export", leaning)
        _commit(repository)
        _ship("HEAD", "conv_deconv")
        names = {file.name for file in (repository / "weights").iterdir()}
        assert names == {f"conv_deconv-{number}.tflite", f"conv_deconv-{number}.md"}
    card = (repository / "weights/conv_deconv-2.md").read_text()
    assert re.search(r"Mean IoU, paired \| \+0\.\d{3} \(\+0\.\d{3} to \+0\.\d{3}\) against", card)
    before = {file: file.read_bytes() for file in (repository / "weights").iterdir()}
    with pytest.raises(StageError, match="is this very network"):
        _ship("HEAD", "conv_deconv")
    with pytest.raises(StageError, match=r"HEAD~1 is worse, mean IoU −0\.\d{3} \("):  # noqa: RUF001
        _ship("HEAD~1", "conv_deconv")
    with pytest.raises(StageError, match=r"unet\.dynamic\.tflite"):
        _ship("HEAD", "unet")
    assert {file: file.read_bytes() for file in (repository / "weights").iterdir()} == before


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_a_card_is_whole_and_of_the_file_beside_it(card: Path) -> None:
    text, file = card.read_text(), card.with_suffix(".tflite")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-sa-4.0"
    for title in ("## Intended use", "## Data and licence", "## Where it fails"):
        assert title in text
    assert "| Recipe | recipes/" in text


def test_the_networks_that_ship_have_their_cards_metrics_on_the_real_test_images() -> None:
    builder = tfds.builder(ship.DATASET)
    if not builder.is_prepared():
        pytest.skip("oxford_iiit_pet is not prepared in TFDS_DATA_DIR or in TFDS' default folder")
    networks = [LiteRT(card.with_suffix(".tflite")) for card in CARDS]
    totals = np.zeros((len(networks), 3, 3), np.int64)
    as_stored = {"image": tfds.decode.SkipDecoding()}  # TensorFlow decodes JPEG in another way
    for example in builder.as_dataset("test", decoders=as_stored).as_numpy_iterator():
        image = network_input(Image.open(io.BytesIO(example["image"])).convert("RGB"), 128)
        trimap = Image.fromarray(example["segmentation_mask"][..., 0])
        mask = np.asarray(trimap.resize((128, 128), Image.Resampling.NEAREST)) - 1
        for index, network in enumerate(networks):
            found = network.logits(image[None]).argmax(axis=-1)
            totals[index] += confusion_matrices(mask[None], found, 3)[0]
    for card, total in zip(CARDS, totals, strict=True):
        (model,) = yaml.safe_load(card.read_text().split("---")[1])["model-index"]
        values = {m["type"]: m["value"] for m in model["results"][0]["metrics"]}
        assert values["mean_iou"] == pytest.approx(float(mean_iou(total)), abs=0.001)
        assert values["accuracy"] == pytest.approx(float(pixel_accuracy(total)), abs=0.001)
