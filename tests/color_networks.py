"""Networks of one layer with known answers, their LiteRT exports, and an image for them."""

import json
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageDraw

from stages.export.formats import convert
from stages.networks.model_file import save_model
from stages.records.manifest import file_sha256


def write_networks(folder: Path) -> None:
    """Writes `colors` (red is pet, green background, blue border), `seen` (gives other answers for
    the mirror image) and `broken` (its logits are NaN).
    """
    images = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 16)(images)
    same = keras.layers.Conv2D(3, 1, name="logits")
    colors = keras.Model(images, same(scaled), name="colors")
    same.set_weights([np.eye(3)[None, None], np.zeros(3)])
    keras.utils.set_random_seed(5)
    other = keras.layers.Conv2D(3, 5, padding="same")(scaled)
    nothing = keras.initializers.Constant(float("nan"))
    nan = keras.layers.Conv2D(3, 1, kernel_initializer=nothing)(scaled)
    seen, broken = keras.Model(images, other, name="seen"), keras.Model(images, nan, name="broken")
    for model in (colors, seen, broken):
        path, export = folder / f"{model.name}.keras", folder / f"{model.name}.export"
        save_model(model, path)
        export.mkdir()
        convert(model, model.name, ["litert_float32"], export, np.zeros((0, 32, 32, 3), np.uint8))
        (export / "source.json").write_text(json.dumps({"sha256": file_sha256(path)}))


def photograph(width: int = 90, height: int = 60) -> Image.Image:
    """A red pet with a blue outline on a green meadow."""
    image = Image.new("RGB", (width, height), (0, 200, 0))
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    ImageDraw.Draw(image).rectangle(box, (220, 0, 0), (0, 0, 230), max(width // 12, 1))
    return image
