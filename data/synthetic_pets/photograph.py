"""What the camera does: light, exposure, tint, blur, sensor noise, and the file formats."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from data.synthetic_pets.drawing import Size, chance, dimmed, levels, look_up, noise, pick

JPEG_QUALITY = 90
# Width : height, as of photographs; most of them lie on their side.
_ASPECTS = ((4, 3), (4, 3), (4, 3), (3, 2), (1, 1), (5, 4), (3, 4), (3, 4), (2, 3))
LONGEST_SIDE = 340


def choose_size(rng: np.random.Generator) -> Size:
    """Width and height in pixels: shorter side 160 to 256, longer side at most 340."""
    across, down = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    shorter = 160 + int(rng.integers(97)) * int(rng.integers(97)) // 96  # more small than large
    longer = min(LONGEST_SIDE, shorter * max(across, down) // min(across, down))
    return (longer, shorter) if across >= down else (shorter, longer)


def develop(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Lights, exposes, blurs and roughens a finished drawing (mode RGB)."""
    size = picture.size
    lowest = int(rng.integers(120, 225))
    light = noise(rng, size, (size[0] / pick(rng, 1.0, 2.2), size[1] / pick(rng, 1.0, 2.2)))
    picture = dimmed(picture, look_up(light, levels(lowest, 255)))
    gain = int(rng.integers(92, 146))
    bend = int(rng.integers(-34, 35))
    tables: list[int] = []
    for tint in rng.integers(-9, 10, 3).tolist():
        for v in range(256):
            # A parabola through black and white: brighter or darker middle tones.
            bent = v + bend * v * (255 - v) * 4 // (255 * 255)
            tables.append(min(255, max(0, bent * (gain + tint) // 100)))
    picture = picture.point(tables)
    if chance(rng, 0.6):
        picture = picture.filter(ImageFilter.BoxBlur(pick(rng, 0.2, 0.9)))
    return _add_noise(rng, picture)


def _add_noise(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    strength = int(rng.integers(3, 15))
    pixels = np.asarray(picture)
    grain = np.frombuffer(rng.bytes(pixels.size), dtype=np.int8).reshape(pixels.shape)
    noisy = pixels + ((grain.astype(np.int16) * strength) >> 7)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode_jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """JPEG bytes of a uint8 [height, width, 3] picture, always with the same settings."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=2, optimize=False)
    return buffer.getvalue()


def encode_png(mask: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of a uint8 [height, width] mask, always with the same settings."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
