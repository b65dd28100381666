"""A picture in the making: paints lit shapes and remembers which pixels are the pet."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops

from data.synthetic_pets.drawing import (
    Box,
    Colour,
    Outline,
    Size,
    blurred,
    dimmed,
    levels,
    look_up,
    noise,
    rasterise,
    steps_between,
)


@functools.cache
def _relief_table(full: int) -> bytes:
    # 45 % of full light at the far edge: rounded, and still showing the coat.
    return bytes(min(255, full * (45 + min(55, 78 * v // 255)) // 100) for v in range(256))


_SHARPEN = steps_between(84, 172)  # turns a blurred, roughened mask back into an edge


class Canvas:
    """An RGB picture and the pet's coverage of it.

    Attributes:
        image: mode RGB, the picture so far.
        pet: mode L, 0 to 255, how much of each pixel is pet.
        light: where the light comes from, as a shift in (x, y), each -1 to 1.
    """

    def __init__(
        self, image: Image.Image, rng: np.random.Generator, light: tuple[float, float]
    ) -> None:
        """Starts from a background (mode RGB)."""
        self.image = image
        self.pet = Image.new("L", image.size)
        self.light = light
        self._grain = look_up(noise(rng, image.size, (2.6, 3.4)), levels(56, 200))

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.image.size

    def paint(
        self,
        outlines: Sequence[Outline],
        texture: Image.Image | Colour,
        *,
        origin: tuple[int, int] | None = None,
        brightness: int = 100,
        relief: float = 0.0,
        ruffle: float = 0.0,
        contact: int = 0,
        feather: float = 0.0,
        is_pet: bool = False,
        is_in_front: bool = False,
    ) -> None:
        """Paints the union of outlines.

        Args:
            outlines: each float64 [points, 2], in pixels.
            texture: an RGB picture seen through the shape, or one colour.
            origin: where in the picture the texture's upper left corner lies. Without it, a texture
                of the canvas's size lies at (0, 0) and any other is stretched over the shape.
            brightness: percent, over the whole shape.
            relief: how far, in pixels, the shape's edge curves away from the light; 0 is flat.
            ruffle: how far, in pixels, tufts of fur roughen the edge; 0 is a clean edge.
            contact: 0 to 100, how dark a shadow it throws on what it touches.
            feather: how far, in pixels, the shape fades into the pet, to which it is confined; for
                markings on a coat.
            is_pet: the shape belongs to the pet.
            is_in_front: the shape is not the pet and hides it.
        """
        spread = max(2.0, relief * 0.5)
        margin = 3 + (round(spread) if contact else 0)
        # A roughened edge is blurred anyway and needs no antialiasing of its own.
        drawn = rasterise(outlines, self.size, margin, factor=1 if ruffle > 0.6 else 0)
        if drawn is None:
            return
        mask, box = drawn
        if feather > 0:
            mask = ImageChops.multiply(blurred(mask, feather), self.pet.crop(box))
        if ruffle > 0:
            soft = blurred(mask, max(ruffle, 0.8))
            rough = ImageChops.add(soft, self._grain.crop(box), offset=-128)
            mask = look_up(rough, _SHARPEN)
        if contact:
            self._darken(mask, box, contact, spread, is_pet)
        fill = self._fill(texture, box, origin)
        if relief > 0 or brightness != 100:
            fill = dimmed(fill, self._shading(mask, relief, brightness))
        self.image.paste(fill, box[:2], mask)
        if is_pet:
            self.pet.paste(255, box, mask)
        if is_in_front:
            self.pet.paste(0, box, mask)

    def shadow(self, outline: Outline, depth: int, softness: float) -> None:
        """Darkens the ground under an outline by up to `depth` percent, blurred by `softness`."""
        drawn = rasterise([outline], self.size, margin=round(softness) + 2)
        if drawn is None:
            return
        mask, box = drawn
        shade = look_up(blurred(mask, softness), levels(0, 255 * depth // 100))
        self.image.paste((12, 10, 12), box, shade)

    def _fill(
        self, texture: Image.Image | Colour, box: Box, origin: tuple[int, int] | None
    ) -> Image.Image:
        left, top, right, bottom = box
        if not isinstance(texture, Image.Image):
            return Image.new("RGB", (right - left, bottom - top), texture)
        if origin is None and texture.size != self.size:
            return texture.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        x, y = origin or (0, 0)
        return texture.crop((left - x, top - y, right - x, bottom - y))

    def _shading(self, mask: Image.Image, relief: float, brightness: int) -> Image.Image:
        full = 255 * brightness // 100
        if relief <= 0:
            return Image.new("L", mask.size, min(255, full))
        near = blurred(mask, relief)
        if relief <= 5:  # a wide blur is smooth already
            near = blurred(near, relief * 0.6)
        shift = (round(self.light[0] * relief * 0.8), round(self.light[1] * relief * 0.8))
        moved = near.copy()  # where the shift uncovers nothing, the frame cuts the shape off
        moved.paste(near, shift)
        return look_up(moved, _relief_table(full))

    def _darken(
        self, mask: Image.Image, box: Box, percent: int, spread: float, is_pet: bool
    ) -> None:
        # A pet's parts darken the pet alone: a dark rim on the background would give its
        # outline away.
        under = self.pet.crop(box) if is_pet else None
        if under is not None and under.getbbox() is None:
            return
        shade = look_up(blurred(mask, spread), levels(0, 255 * percent // 100))
        if under is not None:
            shade = ImageChops.multiply(shade, under)
        self.image.paste((14, 11, 12), box, shade)
