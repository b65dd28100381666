import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from stages.networks.conv_deconv import network as conv_deconv
from stages.networks.unet import network as unet
from stages.networks.unet import pix2pix
from stages.params import Params, UNetParams
from stages.stage import StageError

SIZE = 32


@pytest.fixture(scope="module")
def frozen(params: Params) -> UNetParams:
    return params.unet.model_copy(update={"train_encoder": False, "encoder_weights": "none"})


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose first moving means are 0.5."""
    source = keras.applications.MobileNetV2((SIZE, SIZE, 3), include_top=False, weights=None)
    mean = source.get_layer("bn_Conv1").moving_mean
    mean.assign(np.full(mean.shape, 0.5))
    path = tmp_path_factory.mktemp("encoder") / "encoder.weights.h5"
    source.save_weights(path)
    return path


def test_both_networks_have_their_parameters_and_shapes(params: Params, frozen: UNetParams) -> None:
    for model, parameters, trainable in (
        (conv_deconv.build(params.conv_deconv, 128, 3), 62_243, 62_243),
        (unet.build(frozen, 128, 3), 6_504_227, 4_660_323),
    ):
        assert model.count_params() == parameters
        assert sum(np.prod(variable.shape) for variable in model.trainable_variables) == trainable
        assert model.input_shape == model.output_shape == (None, 128, 128, 3)


@pytest.mark.parametrize(
    ("statistics", "input_range"), [("batch", "signed_unit"), ("stored", "unit")]
)
def test_a_trained_encoder_is_as_its_parameters_say(
    frozen: UNetParams, statistics: str, input_range: str, encoder_file: Path
) -> None:
    changes: dict[str, object] = {"train_encoder": True, "encoder_weights": str(encoder_file)}
    changes |= {"batch_norm_momentum": 0.75, "encoder_learning_rate_factor": 0.1}
    ways = {"encoder_batch_statistics": statistics, "input_range": input_range}
    group = frozen.model_copy(update=changes | ways)
    model = unet.build(group, SIZE, 3)
    encoder = model.get_layer("encoder")
    assert (encoder.get_layer("bn_Conv1").moving_mean.numpy() == 0.5).all()  # as in the file
    kind = keras.layers.BatchNormalization
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, kind)]
    assert {layer.momentum for layer in norms} == {0.75}
    trained = {variable.path: variable.name for variable in encoder.trainable_variables}
    assert set(trained.values()) == {"kernel"} | (
        {"gamma", "beta"} if statistics == "batch" else set()
    )
    assert unet.learning_rate_factors(model, group) == dict.fromkeys(trained, 0.1)

    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    before = [layer.moving_mean.numpy() for layer in norms]
    model(images, training=True)
    for layer, mean in zip(norms, before, strict=True):
        kept = statistics == "stored" and layer in encoder.layers
        assert (layer.moving_mean.numpy() == mean).all() == kept, layer.name
    expected = images / 255
    if input_range == "signed_unit":  # what MobileNetV2 was trained on
        expected = keras.applications.mobilenet_v2.preprocess_input(images.copy())
    scaled = model.get_layer(f"scale_to_{input_range}")(images)
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_logits_are_float32_in_mixed_precision(params: Params, frozen: UNetParams) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        for model in (conv_deconv.build(params.conv_deconv, SIZE, 3), unet.build(frozen, SIZE, 3)):
            assert (model.compute_dtype, model.output.dtype) == ("float16", "float32")
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_upsample_is_the_block_of_the_paper() -> None:
    block = pix2pix.upsample(64, 3)
    block.build((None, 4, 4, 64))
    kinds = [type(layer).__name__ for layer in block.layers]
    assert kinds == ["Conv2DTranspose", "BatchNormalization", "ReLU"]
    assert block.output_shape == (None, 8, 8, 64)
    assert block.count_params() == 3 * 3 * 64 * 64 + 4 * 64
    assert float(np.std(block.layers[0].kernel)) == pytest.approx(0.02, rel=0.03)


def test_upsample_equals_the_one_of_tensorflow_examples() -> None:
    original = pytest.importorskip(
        "tensorflow_examples.models.pix2pix.pix2pix",
        reason="tensorflow_examples is not installed (make setup EXTRAS=cpu,tensorflow-examples)",
    )
    mine, theirs = pix2pix.upsample(8, 3), original.upsample(8, 3)
    features = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    mine(features), theirs(features)
    theirs.set_weights(mine.get_weights())
    for training in (True, False):
        np.testing.assert_allclose(
            mine(features, training=training), theirs(features, training=training), rtol=1e-5
        )


def test_parts_of_a_unet_that_are_unavailable_are_one_clear_message(
    frozen: UNetParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, **changes: str) -> None:
        with pytest.raises(StageError, match=f"^params.yaml: unet.{message}"):
            unet.build(frozen.model_copy(update=changes), SIZE, 3)

    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"not weights")
    refused("encoder_weights: .*damaged.* cannot be loaded", encoder_weights=str(damaged))
    monkeypatch.setitem(sys.modules, "tensorflow_examples.models.pix2pix", None)
    refused(
        "upsampling_block: .*EXTRAS=cpu,tensorflow-examples", upsampling_block="tensorflow_examples"
    )

    def offline(**options: object) -> keras.Model:
        # What keras.utils.get_file raises.
        raise Exception("URL fetch failure on https://x/y.h5: None -- Name not known")

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    refused("encoder_weights: .*URL fetch .* folder KERAS_HOME", encoder_weights="imagenet")
