"""Networks of one layer with known answers, and an image for them."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw

from stages.networks.model_file import save_model


def write_networks(folder: Path) -> None:
    """Writes `colors` (red is pet, green background, blue border), `seen` (gives other answers for
    the mirror image) and `broken` (its logits are NaN).
    """
    images = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 16)(images)
    same = keras.layers.Conv2D(3, 1, name="logits")
    colors = keras.Model(images, same(scaled), name="colors")
    same.set_weights([np.eye(3)[None, None], np.zeros(3)])
    save_model(colors, folder / "colors.keras")
    keras.utils.set_random_seed(5)
    seen = keras.layers.Conv2D(3, 5, padding="same")(scaled)
    save_model(keras.Model(images, seen, name="seen"), folder / "seen.keras")
    nothing = keras.initializers.Constant(float("nan"))
    broken = keras.layers.Conv2D(3, 1, kernel_initializer=nothing)(scaled)
    save_model(keras.Model(images, broken, name="broken"), folder / "broken.keras")


def photograph(width: int = 90, height: int = 60) -> Image.Image:
    """A red pet with a blue outline on a green meadow."""
    image = Image.new("RGB", (width, height), (0, 200, 0))
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    ImageDraw.Draw(image).rectangle(box, (220, 0, 0), (0, 0, 230), max(width // 12, 1))
    return image
