"""How the weights change: Adam with decoupled decay, and the course of its learning rate."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from stages.params import Params


class GroupedAdam(keras.optimizers.Adam):
    """Adam whose learning rate is smaller for some variables.

    Scaling their gradients would change nothing: Adam divides by the gradients' size. A variable is
    updated by TensorFlow's single kernel for Adam, which reads and writes it once, where Keras' own
    update goes over it about ten times; the formula is the same.
    """

    def __init__(self, *, factors: Mapping[str, float], **settings: object) -> None:
        """Takes factors by the variables' paths, and Adam's own settings."""
        super().__init__(**settings)
        self._factors = factors

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable."""
        index = self._get_variable_index(variable)
        factor = self._factors.get(self._trainable_variables[index].path, 1.0)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(learning_rate * factor, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


def _handle(variable: tf.Variable | keras.Variable) -> tf.Tensor:
    # Keras hands over TensorFlow's variables, and keeps its own around others.
    return variable.handle if isinstance(variable, tf.Variable) else variable.value.handle


def build_optimizer(
    network: str, params: Params, steps: int, factors: Mapping[str, float]
) -> keras.optimizers.Optimizer:
    """The optimizer of a training.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter, ICLR 2019) and leaves biases
    and the scales of normalisations alone.

    Args:
        network: The network's name.
        params: All parameters.
        steps: Steps in an epoch.
        factors: What the learning rate is multiplied by for the variables of these paths.

    Returns:
        An optimizer without variables yet.
    """
    optimizer = GroupedAdam(
        factors=factors,
        learning_rate=learning_rate(network, params, steps),
        weight_decay=params.weight_decay or None,
        use_ema=params.ema_momentum > 0,
        ema_momentum=params.ema_momentum,
    )
    if params.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(
    network: str, params: Params, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, or its course over the steps of all epochs (`steps` in each)."""
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
