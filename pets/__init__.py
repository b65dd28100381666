"""Cats and dogs in photographs: `Segmenter` for Python, the `pets` command, and a page."""

from pets.segmentation import Segmentation
from pets.segmenter import Segmenter

__all__ = ["Segmentation", "Segmenter"]
