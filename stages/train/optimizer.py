"""The optimizer: Adam with decoupled weight decay, and its learning-rate schedule."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from stages.params import Params


class FactorAdam(keras.optimizers.Adam):
    """Adam with a learning-rate factor for each variable.

    Scaled gradients would not do: Adam divides by the gradients' size.
    """

    def __init__(self, factors: Mapping[str, float], **settings: object) -> None:
        """Takes factors by variable path, 1 where there is none, and Adam's own settings."""
        super().__init__(**settings)
        self._factors = factors

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable."""
        path = self._trainable_variables[self._get_variable_index(variable)].path
        super().update_step(gradient, variable, learning_rate * self._factors.get(path, 1.0))


def build_optimizer(
    network: str, params: Params, steps: int, factors: Mapping[str, float]
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a training.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter, ICLR 2019) and leaves out
    biases and the scales of normalizations.

    Args:
        network: The network's name.
        params: All parameters.
        steps: Steps in an epoch.
        factors: Learning-rate factors by variable path.
    """
    optimizer = FactorAdam(
        factors,
        learning_rate=learning_rate(network, params, steps),
        weight_decay=params.weight_decay or None,
        use_ema=params.ema_momentum > 0,
        ema_momentum=params.ema_momentum,
    )
    if params.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if params.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def learning_rate(
    network: str, params: Params, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, or its schedule over all epochs of `steps` steps."""
    peak = params.network(network).learning_rate
    if params.learning_rate_schedule == "constant":
        return peak
    warmup = min(params.warmup_epochs, params.epochs) * steps
    # Loshchilov and Hutter, SGDR, ICLR 2017, without restarts; linear warm-up before it.
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else peak,
        decay_steps=max(params.epochs * steps - warmup, 1),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
