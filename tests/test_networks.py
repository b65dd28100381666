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

CONV_DECONV_PARAMS = 62_243
UNET_PARAMS = 6_504_227
UNET_DECODER_PARAMS = 4_660_323


@pytest.fixture(scope="module")
def frozen(params: Params) -> UNetParams:
    return params.unet.model_copy(update={"train_encoder": False, "encoder_weights": "none"})


def _count(variables: list) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def test_conv_deconv_has_its_parameters_and_shapes(params: Params) -> None:
    model = conv_deconv.build(params.conv_deconv, 128, 3)
    assert model.count_params() == CONV_DECONV_PARAMS
    assert _count(model.trainable_variables) == CONV_DECONV_PARAMS
    assert model.input_shape == (None, 128, 128, 3)
    assert model.output_shape == (None, 128, 128, 3)


def test_unet_has_its_parameters_and_shapes(params: Params, frozen: UNetParams) -> None:
    model = unet.build(frozen, 128, 3)
    assert model.count_params() == UNET_PARAMS
    assert _count(model.trainable_variables) == UNET_DECODER_PARAMS
    assert model.output_shape == (None, 128, 128, 3)
    trained = unet.build(params.unet.model_copy(update={"train_encoder": True}), 128, 3)
    assert trained.count_params() == UNET_PARAMS
    assert _count(trained.trainable_variables) > UNET_DECODER_PARAMS


def test_another_size_has_the_same_weights(params: Params, frozen: UNetParams) -> None:
    image_size = 96
    for model in (
        conv_deconv.build(params.conv_deconv, image_size, 3),
        unet.build(frozen, image_size, 3),
    ):
        assert model.output_shape == (None, image_size, image_size, 3)
        assert model.count_params() in {CONV_DECONV_PARAMS, UNET_PARAMS}


@pytest.mark.parametrize("wanted", ["signed_unit", "unit"])
def test_the_encoder_gets_values_in_the_range_asked_for(frozen: UNetParams, wanted: str) -> None:
    model = unet.build(frozen.model_copy(update={"input_range": wanted}), 32, 3)
    scale = keras.Model(model.input, model.get_layer(f"scale_to_{wanted}").output)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    expected = pixels / 255
    if wanted == "signed_unit":  # what MobileNetV2 was trained on
        expected = keras.applications.mobilenet_v2.preprocess_input(pixels.copy())
    np.testing.assert_allclose(scale(pixels), expected, atol=1e-6)


def test_the_momentum_of_all_batch_statistics_is_a_parameter(params: Params) -> None:
    model = unet.build(params.unet.model_copy(update={"batch_norm_momentum": 0.75}), 64, 3)
    layers = [layer for part in model.layers for layer in getattr(part, "layers", [])]
    momenta = {
        layer.momentum for layer in layers if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert momenta == {0.75}


def _statistics(model: keras.Model, *, encoder: bool) -> list[np.ndarray]:
    inside = {id(variable) for variable in model.get_layer("encoder").variables}
    return [
        variable.numpy()
        for variable in model.non_trainable_variables
        if "moving_" in variable.path and (id(variable) in inside) == encoder
    ]


@pytest.mark.parametrize("statistics", ["batch", "stored"])
def test_a_step_of_training_changes_the_encoders_statistics_unless_they_are_stored(
    params: Params, statistics: str
) -> None:
    changes = {"encoder_weights": "none", "train_encoder": True}
    wanted = params.unet.model_copy(update=changes | {"encoder_batch_statistics": statistics})
    keras.utils.set_random_seed(0)
    model = unet.build(wanted, 32, 3)
    names = {variable.name for variable in model.get_layer("encoder").trainable_variables}
    scales = set() if statistics == "stored" else {"gamma", "beta"}
    assert names == {"kernel"} | scales
    before = [_statistics(model, encoder=inside) for inside in (True, False)]
    kernel = model.get_layer("encoder").get_layer("Conv1").kernel.numpy()
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)  # tracing takes longer
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    model.train_on_batch(images, np.ones((2, 32, 32, 3), np.float32))
    changed = [
        [
            (old != new).any()
            for old, new in zip(olds, _statistics(model, encoder=inside), strict=True)
        ]
        for olds, inside in zip(before, (True, False), strict=True)
    ]
    assert len(changed[0]) > len(changed[1]) > 0
    assert all(changed[1])
    assert all(changed[0]) if statistics == "batch" else not any(changed[0])
    assert (model.get_layer("encoder").get_layer("Conv1").kernel.numpy() != kernel).any()


def test_the_encoder_learns_at_its_share_of_the_rate(params: Params) -> None:
    changes = {"encoder_weights": "none", "train_encoder": True}
    wanted = params.unet.model_copy(update=changes | {"encoder_learning_rate_factor": 0.1})
    model = unet.build(wanted, 32, 3)
    paths = [variable.path for variable in model.trainable_variables]
    assert len(set(paths)) == len(paths)
    encoder = {variable.path for variable in model.get_layer("encoder").trainable_variables}
    assert unet.learning_rate_factors(model, wanted) == dict.fromkeys(encoder, 0.1)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_in_mixed_precision(
    params: Params, frozen: UNetParams, policy: str
) -> None:
    keras.mixed_precision.set_global_policy(policy)
    try:
        for model in (
            conv_deconv.build(params.conv_deconv, 32, 3),
            unet.build(frozen, 32, 3),
        ):
            assert model.compute_dtype == policy.removeprefix("mixed_")
            assert model(np.zeros((1, 32, 32, 3), np.uint8)).dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_upsample_is_the_block_of_the_paper() -> None:
    block = pix2pix.upsample(8, 3)
    block.build((None, 4, 4, 5))
    kinds = [type(layer).__name__ for layer in block.layers]
    assert kinds == ["Conv2DTranspose", "BatchNormalization", "ReLU"]
    assert block.output_shape == (None, 8, 8, 8)
    assert block.count_params() == 3 * 3 * 5 * 8 + 4 * 8
    wide = pix2pix.upsample(64, 3)
    wide.build((None, 4, 4, 64))
    assert float(np.std(wide.layers[0].kernel)) == pytest.approx(0.02, rel=0.03)


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


def test_without_tensorflow_examples_the_message_says_how_to_get_it(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_examples.models.pix2pix", None)
    wanted = params.unet.model_copy(update={"upsampling_block": "tensorflow_examples"})
    with pytest.raises(StageError, match="EXTRAS=cpu,tensorflow-examples"):
        unet.build(wanted, 64, 3)


def test_a_file_of_encoder_weights_is_loaded(
    params: Params, frozen: UNetParams, tmp_path: Path
) -> None:
    source = keras.applications.MobileNetV2((64, 64, 3), include_top=False, weights=None)
    path = tmp_path / "encoder.weights.h5"
    source.save_weights(path)
    wanted = params.unet.model_copy(update={"encoder_weights": str(path)})
    encoder = unet.build(wanted, 64, 3).get_layer("encoder")
    np.testing.assert_array_equal(
        encoder.get_layer("Conv1").get_weights()[0], source.get_layer("Conv1").get_weights()[0]
    )
    with pytest.raises(StageError, match=r"encoder_weights: nowhere\.h5 cannot be loaded"):
        unet.build(frozen.model_copy(update={"encoder_weights": "nowhere.h5"}), 64, 3)
    path.write_bytes(b"not weights")
    with pytest.raises(StageError, match=r"encoder_weights: .*encoder.weights.h5 cannot be loaded"):
        unet.build(wanted, 64, 3)


def test_imagenet_weights_that_cannot_be_downloaded_are_one_clear_message(
    frozen: UNetParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = keras.applications.MobileNetV2

    def offline(*args: object, weights: str | None, **kwargs: object) -> keras.Model:
        if weights == "imagenet":
            # What keras.utils.get_file raises.
            raise Exception("URL fetch failure on https://x/y.h5: None -- Name not known")
        return build(*args, weights=weights, **kwargs)

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(StageError, match=r"URL fetch failure .* in the folder KERAS_HOME"):
        unet.build(frozen.model_copy(update={"encoder_weights": "imagenet"}), 128, 3)
