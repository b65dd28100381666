import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.networks.unet import network as unet
from stages.networks.unet.training_form import FoldedConv2D, FrozenSkipConv2DTranspose
from stages.params import Params, UNetParams
from stages.train.__main__ import compiled

WAYS = {
    "frozen": {"train_encoder": False, "encoder_batch_statistics": "stored"},
    "stored": {"train_encoder": True, "encoder_batch_statistics": "stored"},
    "batch": {"train_encoder": True, "encoder_batch_statistics": "batch"},
}


@pytest.fixture(scope="module", params=WAYS)
def group(request: pytest.FixtureRequest, params: Params) -> UNetParams:
    return params.unet.model_copy(update={"encoder_weights": "none", **WAYS[request.param]})


@pytest.fixture(scope="module")
def network(group: UNetParams) -> keras.Model:
    """A U-Net whose normalisations have statistics and scales unlike those of a new one."""
    keras.utils.set_random_seed(1)
    model = unet.build(group, 32, 3)
    draw = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (layer.gamma, layer.moving_variance):
                variable.assign(draw.uniform(0.5, 2, variable.shape))
            for variable in (layer.beta, layer.moving_mean):
                variable.assign(draw.normal(0, 0.2, variable.shape))
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[tf.Tensor, tf.Tensor]:
    draw = np.random.default_rng(1)
    images = tf.constant(draw.integers(0, 256, (4, 32, 32, 3)), tf.float32)
    return images, tf.constant(draw.integers(0, 3, (4, 32, 32)))


def _gradients(
    model: keras.Model, variables: list[keras.Variable], batch: tuple[tf.Tensor, tf.Tensor]
) -> list[tf.Tensor]:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(batch[1], model(batch[0], training=True))
    return tape.gradient(value, [variable.value for variable in variables])


def test_logits_are_those_of_the_network(
    network: keras.Model, batch: tuple[tf.Tensor, tf.Tensor]
) -> None:
    expected = network(batch[0], training=False).numpy()
    found = unet.training_form(network)(batch[0], training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_gradients_are_those_of_the_network(
    network: keras.Model, batch: tuple[tf.Tensor, tf.Tensor]
) -> None:
    form = unet.training_form(network)
    variables = network.trainable_variables
    expected = _gradients(network, variables, batch)
    # A shift just before a normalisation by the batch's own statistics has a gradient of zero, and
    # what is computed for it is rounding: measured against the network's largest gradient.
    rounding = 3e-6 * max(np.abs(gradient).max() for gradient in expected)
    for variable, one, other in zip(
        variables, _gradients(form, variables, batch), expected, strict=True
    ):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=1e-4 * scale + rounding, err_msg=variable.path)


@pytest.mark.parametrize("group", ["frozen"], indirect=True)
def test_a_step_of_the_form_trains_the_network_itself(
    group: UNetParams, network: keras.Model, params: Params, batch: tuple[tf.Tensor, tf.Tensor]
) -> None:
    form = compiled("unet", params.model_copy(update={"unet": group}), network, 1)
    assert {id(variable) for variable in form.variables} >= {
        id(variable) for variable in network.variables
    }
    before = [variable.numpy() for variable in network.trainable_variables]
    form.fit(*batch, batch_size=4, verbose=0)
    form.fit(*batch, batch_size=4, verbose=0)  # the warm-up's first step has a rate of 0
    after = [variable.numpy() for variable in network.trainable_variables]
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))


def test_what_can_be_left_out_is_left_out(group: UNetParams, network: keras.Model) -> None:
    layers = list(unet.training_form(network)._flatten_layers())
    stored = group.encoder_batch_statistics == "stored"
    norms = [
        layer
        for layer in network.get_layer("encoder").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    folded = sum(isinstance(layer, FoldedConv2D) for layer in layers)
    assert folded == (len(norms) if stored else 0)
    pads = sum(isinstance(layer, keras.layers.ZeroPadding2D) for layer in layers)
    assert pads == (0 if stored else 4)
    joined = sum(isinstance(layer, FrozenSkipConv2DTranspose) for layer in layers)
    assert joined == (0 if group.train_encoder else 3)
