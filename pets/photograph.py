"""Reading photographs: any size and colour model, the right way up, as RGB."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
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
HEIC_SUFFIXES = (".heic", ".heif")
# What a folder is searched for.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *HEIC_SUFFIXES,
)
# Pillow's own limit against decompression bombs: a quarter of a gigabyte as RGB.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485

# What Pillow warns about is either an error here or does no harm.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PhotographError(Exception):
    """A photograph that cannot be used; the message, after its name, says why."""


class Photograph(NamedTuple):
    """A photograph as it is looked at."""

    image: Image.Image  # RGB, the right way up
    icc_profile: bytes | None  # of its colours, for images that are made of them


def read_photograph(source: Path | bytes) -> Photograph:
    """Reads a photograph from a file or its contents; of an animation the first frame.

    The EXIF orientation is applied, transparent pixels are put on white, and of 16 bits the upper
    eight are taken.

    Raises:
        PhotographError: It cannot be read, or has more than MAX_PIXELS pixels.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            # A profile of grey or of inks says nothing about the RGB values.
            icc_profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
            return Photograph(_rgb(ImageOps.exif_transpose(image)), icc_profile)
    except PhotographError:
        raise
    except Image.UnidentifiedImageError:
        reason = _unknown(source)
    except Image.DecompressionBombError:
        reason = f"has more than {MAX_PIXELS:,} pixels"
    # Broken files make Pillow's readers raise all kinds of errors.
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"is broken: {error}".partition("\n")[0]
    raise PhotographError(reason)


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
        return Image.alpha_composite(paper, colors).convert("RGB")
    return image.convert("RGB")


def _unknown(source: Path | bytes) -> str:
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        return "is empty"
    if isinstance(source, Path) and source.suffix.lower() in HEIC_SUFFIXES and not HEIC:
        return "needs pillow-heif, which is not installed: pip install pillow-heif"
    return "is not an image of a known format, or its beginning is broken"
