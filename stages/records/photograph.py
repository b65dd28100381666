"""Photographs: any size and colour model, the right way up, as RGB, and as a network sees them."""

import io
import os
import re
import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

try:
    import pillow_heif
except ImportError:
    HEIC = False
else:
    pillow_heif.register_heif_opener()
    HEIC = True

# Pillow knows many more; a photograph does not come as PostScript, which runs another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", *(["HEIF"] * HEIC))
# What a folder is searched for.
SUFFIX = re.compile(r"\.(jpe?g?|mpo|png|webp|bmp|gif|tiff?|avif|hei[cf])", re.IGNORECASE)
# Pillow's own limit against decompression bombs: a quarter of a gigabyte as RGB.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485

# What Pillow warns about is either an error here or does no harm.
warnings.filterwarnings("ignore", module=r"PIL\.")


# A file, its content, or pixels.
Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]


class PhotographError(Exception):
    """A photograph that cannot be used; the message, after its name, says why."""


def read_photograph(source: Source) -> Image.Image:
    """Reads a photograph as RGB from a file, its content, or pixels; the first of several frames.

    The EXIF orientation is applied, transparent pixels are put on white, and of 16 bits the upper
    eight are taken. An array is uint8, [height, width] or [height, width, 3]. The profile of its
    colours, or None, is `info["icc_profile"]`. Raises PhotographError if it cannot be read, or has
    more than MAX_PIXELS pixels.
    """
    try:
        if isinstance(source, np.ndarray):
            source = Image.fromarray(source)
        if isinstance(source, Image.Image):
            return _upright(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PhotographError(f"has more than {MAX_PIXELS:,} pixels")
            return _upright(image)
    except PhotographError:
        raise
    except Image.UnidentifiedImageError as error:
        remedy = "" if HEIC else "; HEIC needs pillow-heif: pip install pillow-heif"
        raise PhotographError(f"is empty, broken or of an unknown format{remedy}") from error
    except Exception as error:  # broken files make Pillow's readers raise all kinds of errors
        raise PhotographError(f"cannot be read: {error}".partition("\n")[0]) from error


def network_input(image: Image.Image, image_size: int) -> npt.NDArray[np.uint8]:
    """Scale an RGB image to a square, uint8 [image_size, image_size, 3], in training and in use.

    Bilinear with antialiasing, in fixed-point arithmetic: the bytes are the same on every machine.
    """
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def _upright(image: Image.Image) -> Image.Image:
    photograph = _rgb(ImageOps.exif_transpose(image))
    # A profile of grey or of inks says nothing about the RGB values.
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    photograph.info = {"icc_profile": profile}
    return photograph


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would cut off at 255 what goes up to 65,535.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise PhotographError("has grey values of more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        paper = Image.new("RGBA", colors.size, "white")
        paper.alpha_composite(colors)
        image = paper
    return image.convert("RGB")
