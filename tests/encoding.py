"""The bytes of an image file."""

import io

import numpy as np
from PIL import Image


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Encode an image, or pixels uint8 [height, width] or [height, width, 3]."""
    file = io.BytesIO()
    plain = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    plain.save(file, kind, **options)
    return file.getvalue()
