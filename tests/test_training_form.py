import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.networks.unet import network as unet
from stages.networks.unet.training_form import FoldedConv2D, FrozenSkipConv2DTranspose
from stages.params import Params, UNetParams

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
    """A U-Net whose normalizations have statistics and scales unlike those of a new one."""
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


def test_logits_and_gradients_are_those_of_the_network(network: keras.Model) -> None:
    draw = np.random.default_rng(1)
    images = tf.constant(draw.integers(0, 256, (4, 32, 32, 3)), tf.float32)
    masks = tf.constant(draw.integers(0, 3, (4, 32, 32)))
    variables = network.trainable_variables
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = unet.training_form(network), network
    logits, expected = (model(images, training=False).numpy() for model in models)
    gradients: list[tf.Tensor] = []
    expected_gradients: list[tf.Tensor] = []
    for model, found in zip(models, (gradients, expected_gradients), strict=True):
        with tf.GradientTape() as tape:
            value = loss(masks, model(images, training=True))
        found.extend(tape.gradient(value, [variable.value for variable in variables]))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    # A shift just before a normalization by the batch's own statistics has a gradient of zero, and
    # what is computed for it is rounding: measured against the network's largest gradient.
    rounding = 3e-6 * max(np.abs(gradient).max() for gradient in expected_gradients)
    for variable, one, other in zip(variables, gradients, expected_gradients, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=1e-4 * scale + rounding, err_msg=variable.path)


def test_what_can_be_left_out_is_left_out(group: UNetParams, network: keras.Model) -> None:
    form = unet.training_form(network)
    layers = list(form._flatten_layers())
    norms = [
        layer
        for layer in network.get_layer("encoder").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    stored = group.encoder_batch_statistics == "stored"
    folded = sum(isinstance(layer, FoldedConv2D) for layer in layers)
    assert folded == (len(norms) if stored else 0)
    joined = sum(isinstance(layer, FrozenSkipConv2DTranspose) for layer in layers)
    assert joined == (0 if group.train_encoder else 3)
    # What trains is the network itself.
    assert {id(variable) for variable in form.variables} >= {
        id(variable) for variable in network.variables
    }
