import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.params import Params
from stages.train.optimizer import build_optimizer, learning_rate

RATE = 0.01


@pytest.fixture
def constant(params: Params) -> Params:
    """Plain Adam at one learning rate."""
    changes = {"learning_rate_schedule": "constant", "weight_decay": 0.0, "ema_momentum": 0.0}
    group = params.conv_deconv.model_copy(update={"learning_rate": RATE})
    return params.model_copy(update=changes | {"conv_deconv": group})


def _moved(
    params: Params, steps: int, *, factors: dict[str, float] | None = None, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """The variables of a small model after steps with the same gradients, times `scale`."""
    optimizer = build_optimizer("conv_deconv", params, 2, factors or {})
    keras.utils.set_random_seed(0)
    features = keras.Input((4,))
    x = keras.layers.Dense(5, name="first")(features)
    x = keras.layers.BatchNormalization(name="norm")(x)
    variables = keras.Model(features, keras.layers.Dense(2, name="last")(x)).trainable_variables
    draw = np.random.default_rng(1)
    for _ in range(steps):
        gradients = [draw.normal(size=variable.shape) for variable in variables]
        optimizer.apply([tf.constant(scale * g, tf.float32) for g in gradients], variables)
    return {variable.path: variable.numpy() for variable in variables}


def test_decay_shrinks_kernels_and_leaves_biases_and_normalizations_alone(constant: Params) -> None:
    params = constant.model_copy(update={"weight_decay": 0.5})
    start, decayed = _moved(params, 0), _moved(params, 3, scale=0)
    for path, values in start.items():
        shrunk = (1 - RATE * 0.5) ** 3 if path.endswith("kernel") else 1
        np.testing.assert_allclose(decayed[path], shrunk * values, rtol=1e-6, err_msg=path)
    assert {path.split("/")[-1] for path in start} == {"kernel", "bias", "gamma", "beta"}


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "mixed_float16"},  # with loss scaling
        {"learning_rate_schedule": "cosine", "epochs": 4, "warmup_epochs": 1},
    ],
)
def test_a_factor_scales_how_far_its_variables_move_and_no_others(
    constant: Params, changes: dict[str, object]
) -> None:
    params = constant.model_copy(update=changes)
    factors = {"first/kernel": 0.1, "norm/beta": 0.5}
    start, whole, partly = _moved(params, 0), _moved(params, 4), _moved(params, 4, factors=factors)
    for path, values in whole.items():
        expected = factors.get(path, 1.0) * (values - start[path])
        np.testing.assert_allclose(partly[path] - start[path], expected, atol=3e-7, err_msg=path)
        assert np.abs(values - start[path]).max() > RATE / 100


@pytest.mark.parametrize("warmup", [0, 2, 10, 12])
def test_the_learning_rate_warms_up_and_comes_down_to_nothing(params: Params, warmup: int) -> None:
    """Over 10 epochs of 5 steps; a warm-up of more epochs than there are takes all of them."""
    peak = params.unet.learning_rate
    changed = params.model_copy(update={"epochs": 10, "warmup_epochs": warmup})
    schedule = learning_rate("unet", changed, steps=5)
    assert callable(schedule)
    rising = 5 * min(warmup, 10)
    up = peak * np.arange(rising) / max(rising, 1)
    down = peak * (1 + np.cos(np.pi * np.linspace(0, 1, 51 - rising))) / 2
    expected = [*up, *down][:50]
    assert [float(schedule(step)) for step in range(50)] == pytest.approx(expected, abs=1e-8)
    flat = changed.model_copy(update={"learning_rate_schedule": "constant"})
    assert learning_rate("unet", flat, steps=5) == peak
