"""The model that `mlflow models serve` runs: photographs in, masks out.

MLflow runs this file where the model is served, with copies of `pets` and `stages` beside it.
"""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel

from pets.network import Network
from pets.photograph import PhotographError, read_photograph
from pets.prediction import at_own_size, mask_picture
from stages.records.resizing import network_input


class MaskModel(PythonModel):
    """From photographs, each as the base64 of its file, to masks, each as the base64 of a PNG."""

    def load_context(self, context: Any) -> None:
        """Loads the network."""
        self._network = Network(Path(context.artifacts["network"]))

    # No type for `model_input`: MLflow would derive another signature from it.
    def predict(self, context, model_input, params=None) -> list[str]:
        """Predicts photographs.

        Args:
            context: MLflow's.
            model_input: Base64 of JPEG, PNG and what else `pets predict` reads.
            params: None are known.

        Returns:
            For each a palette PNG of the photograph's size: 0 pet, 1 background, 2 border.

        Raises:
            MlflowException: One of them is no photograph; the answer is then an error 400.
        """
        del context, params
        masks = []
        for number, text in enumerate(np.ravel(model_input)):
            try:
                image = read_photograph(base64.b64decode(str(text), validate=True)).image
            except (binascii.Error, PhotographError) as error:
                raise mlflow.MlflowException.invalid_parameter_value(
                    f"inputs[{number}] {error}"
                ) from error
            picture = network_input(image, self._network.image_size)
            (probabilities,) = self._network.probabilities(picture[None])
            file = io.BytesIO()
            mask_picture(at_own_size(probabilities, image.size)).save(file, "PNG")
            masks.append(base64.b64encode(file.getvalue()).decode())
        return masks


mlflow.models.set_model(MaskModel())
