"""`pets.Segmenter` and what it gives, beside the Keras model and TensorFlow's resizing."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pets import Segmenter, segmentation
from pets.segmentation import at_size
from stages.networks.model_file import load_model, prediction_function
from stages.records.classes import class_rgb
from stages.records.photograph import PhotographError
from stages.stage import StageError
from tests.color_networks import photograph


@pytest.mark.parametrize("flip", [False, True])
def test_it_predicts_what_evaluate_measures_also_from_many_threads(
    color_networks: Path, flip: bool
) -> None:
    """At the network's own size there is nothing to interpolate."""
    images = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    model = load_model(color_networks / "seen.keras")
    segmenter = Segmenter("seen", models=color_networks, flip=flip)
    with ThreadPoolExecutor(4) as pool:
        found = [result.mask for result in pool.map(segmenter.segment, images)]
    expected = prediction_function(model, flip)(images).numpy().argmax(axis=-1)
    assert np.mean(np.stack(found) == expected) > 0.999


def test_with_flip_the_mirror_image_has_the_mirrored_probabilities(color_networks: Path) -> None:
    segmenter = Segmenter("seen", models=color_networks, flip=True)
    noise = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    one, other = segmenter.segment(noise), segmenter.segment(noise[:, ::-1])
    np.testing.assert_allclose(one.probabilities, other.probabilities[:, ::-1], atol=1e-6)


def test_a_photograph_in_any_form_gives_mask_probabilities_overlay_and_cutout(
    color_networks: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter("colors", models=color_networks)
    photograph().save(tmp_path / "pet.png")
    pixels = np.asarray(photograph())
    content = (tmp_path / "pet.png").read_bytes()
    for source in (tmp_path / "pet.png", str(tmp_path / "pet.png"), content, photograph(), pixels):
        found = segmenter.segment(source)
        # In the middle, on the outline, and in the corner.
        assert [found.mask[30, 45], found.mask[30, 26], found.mask[2, 2]] == [0, 2, 1]
    assert found.probabilities.shape == (60, 90, 3)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=-1), found.mask)
    assert found.probabilities.max(axis=-1).mean() == pytest.approx(found.confidence)
    shown = np.asarray(found.overlay()).astype(float)
    np.testing.assert_allclose(shown, pixels / 2 + class_rgb()[found.mask] / 2, atol=1)
    cut = np.asarray(found.cutout())
    np.testing.assert_array_equal(cut[..., :3], pixels)
    assert (cut[found.mask == 0, 3] == 255).all()
    assert (cut[found.mask == 1, 3] == 0).all()
    assert segmenter.segment(pixels, (45, 30)).cutout().size == (45, 30)


def test_only_a_whole_export_of_this_very_network_runs(
    color_networks: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(color_networks, tmp_path / "models")
    export = models / "seen.export"
    (export / "seen.float32.tflite").write_bytes(b"nothing")
    for name, told in (
        ("unet", "has no LiteRT export of 'unet'; `dvc repro export@unet`"),
        ("seen", "seen.float32.tflite is damaged"),
    ):
        with pytest.raises(StageError, match=told):
            Segmenter(name, models=models)
    # Trained again, and not exported since.
    shutil.copy(models / "colors.keras", models / "seen.keras")
    stale = "seen.export was not made from this seen.keras; `dvc repro export@seen` makes it again"
    for _ in range(2):
        with pytest.raises(StageError, match=stale):
            Segmenter("seen", models=models)
        (export / "source.json").unlink(missing_ok=True)


def test_broken_weights_and_strange_arrays_are_refused(color_networks: Path) -> None:
    with pytest.raises(PhotographError, match="no finite numbers"):
        Segmenter("broken", models=color_networks).segment(photograph())
    with pytest.raises(PhotographError, match="cannot be read"):
        Segmenter("colors", models=color_networks).segment(np.zeros((4, 4, 7), np.uint8))


def _probabilities() -> np.ndarray:
    logits = np.random.default_rng(0).normal(0, 2, (1, 16, 16, 3)).astype(np.float32)
    return tf.nn.softmax(logits)[0].numpy()


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (7, 90), (300, 200), (1, 1), (1, 4000)])
def test_probabilities_are_interpolated_as_tensorflow_does_it(size: tuple[int, int]) -> None:
    found = at_size(_probabilities(), Image.new("RGB", size))
    expected = tf.image.resize(_probabilities()[None], size[::-1], "bilinear", antialias=True)[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)
    np.testing.assert_array_equal(found.mask, found.probabilities.argmax(axis=-1))


def test_a_large_photograph_is_worked_on_in_bands_of_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image.new("RGB", (301, 203))
    whole = at_size(_probabilities(), image)
    monkeypatch.setattr(segmentation, "BAND_PIXELS", 4_000)
    banded = at_size(_probabilities(), image)
    assert np.mean(whole.mask == banded.mask) > 0.9999
    assert np.abs(whole.opacity.astype(int) - banded.opacity).mean() < 0.01
    assert whole.confidence == pytest.approx(banded.confidence, rel=1e-5)


def test_the_cutouts_edge_runs_within_the_border() -> None:
    """Along a row from pet to background the opacity falls on the border, and only there."""
    ramp = np.linspace(0, 1, 32, dtype=np.float32)
    border = np.where(np.abs(ramp - 0.5) < 0.2, 0.9, 0.0).astype(np.float32)
    row = np.stack([(1 - ramp) * (1 - border), ramp * (1 - border), border], axis=-1)
    found = at_size(np.broadcast_to(row, (32, 32, 3)), Image.new("RGB", (32, 32)))
    opacity, classes = found.opacity[5].astype(int), found.mask[5]
    assert (opacity[classes == 0] == 255).all()
    assert (opacity[classes == 1] == 0).all()
    assert (np.diff(opacity) <= 0).all()
    assert len(set(opacity[classes == 2].tolist())) > 5
