import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.networks.unet import network as unet
from stages.networks.unet.training_form import (
    FoldedConv2D,
    FrozenSkipConv2DTranspose,
    FusedBatchNormalization,
)
from stages.params import Params


@pytest.mark.parametrize(
    ("train_encoder", "statistics"), [(False, "stored"), (True, "stored"), (True, "batch")]
)
def test_the_training_form_is_the_network_with_what_can_be_left_out(
    params: Params, train_encoder: bool, statistics: str
) -> None:
    """The same logits, gradients and variables, for statistics unlike those of a new network."""
    changes = {"train_encoder": train_encoder, "encoder_batch_statistics": statistics}
    group = params.unet.model_copy(update={"encoder_weights": "none", **changes})
    keras.utils.set_random_seed(1)
    network = unet.build(group, 32, 3)
    draw = np.random.default_rng(0)
    norms = keras.layers.BatchNormalization
    for layer in network._flatten_layers():
        if isinstance(layer, norms):
            for variable in (layer.gamma, layer.moving_variance):
                variable.assign(draw.uniform(0.5, 2, variable.shape))
            for variable in (layer.beta, layer.moving_mean):
                variable.assign(draw.normal(0, 0.2, variable.shape))
    form = unet.training_form(network)

    kinds = [type(layer) for layer in form._flatten_layers()]
    in_encoder = sum(isinstance(layer, norms) for layer in network.get_layer("encoder").layers)
    assert kinds.count(FoldedConv2D) == (in_encoder if statistics == "stored" else 0)
    # Those of the decoder's four blocks too.
    assert kinds.count(FusedBatchNormalization) == 4 + in_encoder - kinds.count(FoldedConv2D)
    assert kinds.count(FrozenSkipConv2DTranspose) == (0 if train_encoder else 3)
    # So what a state keeps of the network is all that the form trains.
    assert {id(variable) for variable in form.variables} == {
        id(variable) for variable in network.variables
    }

    images = tf.constant(draw.integers(0, 256, (4, 32, 32, 3)), tf.float32)
    masks = tf.constant(draw.integers(0, 3, (4, 32, 32)))
    variables = network.trainable_variables
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits, expected = (model(images, training=False).numpy() for model in (form, network))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    gradients = []
    for model in (form, network):
        with tf.GradientTape() as tape:
            value = loss(masks, model(images, training=True))
        gradients.append(tape.gradient(value, [variable.value for variable in variables]))
    # Rounding turns a ReLU here and there, and in a new network with the batch's statistics that
    # grows: against float64, Keras' own gradients are wrong by 1 % (median), the form's by 2 %.
    share = 1e-4 if statistics == "stored" else 0.2
    # A shift just before a normalization by the batch's own statistics has a gradient of zero, and
    # what is computed for it is rounding: measured against the network's largest gradient.
    rounding = 3e-6 * max(np.abs(gradient).max() for gradient in gradients[1])
    for variable, one, other in zip(variables, *gradients, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=share * scale + rounding, err_msg=variable.path)


@pytest.mark.parametrize("synchronized", [False, True])
def test_fused_batch_normalization_is_that_of_keras(synchronized: bool) -> None:
    """Outputs, gradients and moving statistics of a step, and outputs after it."""
    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(3, 2, (2, 5, 7, 4)), tf.float32)
    slope = tf.constant(draw.normal(size=images.shape), tf.float32)
    results = []
    for fused in (False, True):
        norm = keras.layers.BatchNormalization(momentum=0.7, synchronized=synchronized)
        norm.build(images.shape)
        norm.gamma.assign([0.5, 1.0, 2.0, -1.0])
        norm.beta.assign([0.0, 1.0, -1.0, 0.5])
        layer = FusedBatchNormalization(norm) if fused else norm
        with tf.GradientTape() as tape:
            tape.watch(images)
            normalized = layer(images, training=True)
            value = tf.reduce_sum(slope * normalized)
        sources = [images, norm.gamma.value, norm.beta.value]
        moving = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        results.append([normalized, *tape.gradient(value, sources), *moving, layer(images)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
