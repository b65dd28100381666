"""A trained network, ready to be used."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.networks.model_file import load_model, prediction_function


class Network:
    """A network that `train` has trained, used as `evaluate` measures it."""

    def __init__(self, path: Path, *, flip: bool = False, traced: bool = True) -> None:
        """Loads a network.

        Args:
            path: What `train` has written: models/<network>.keras.
            flip: Whether to take the mean over each picture and its mirror image.
            traced: Whether to compile it first: a second that pays from some ten pictures on.

        Raises:
            StageError: There is no such network, or it cannot be loaded.
        """
        model = load_model(path)
        self.image_size: int = model.input_shape[1]  # height and width of its pictures
        self._logits = prediction_function(model, flip)
        if traced:
            size = self.image_size
            self._logits = tf.function(
                self._logits, [tf.TensorSpec((None, size, size, 3), tf.uint8)], autograph=False
            )

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Predicts pictures.

        Args:
            images: [batch, image_size, image_size, 3], as of `resizing.network_input`.

        Returns:
            Probabilities [batch, image_size, image_size, class].
        """
        probabilities: npt.NDArray[np.float32] = tf.nn.softmax(
            self._logits(tf.constant(images))
        ).numpy()
        return probabilities
