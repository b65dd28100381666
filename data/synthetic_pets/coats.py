"""Coats: fur with stripes, spots, patches, points or a saddle, as pictures to paint with."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from data.synthetic_pets.breeds import CREAM, WHITE, Breed
from data.synthetic_pets.drawing import (
    Colour,
    Size,
    chance,
    choose,
    levels,
    look_up,
    mix_fields,
    noise,
    pick,
    ramp,
    scaled,
    steps_between,
    vary,
)


class Coat(NamedTuple):
    """The surfaces of one animal; pictures are mode RGB and all of one size.

    `patch` lies around one eye of a patched animal, `mask` on the dark face of an animal with
    points, `blaze` is a pale stripe between the eyes and `chest` a pale chest. They are None on
    the others.
    """

    body: Image.Image
    limbs: Image.Image
    head: Image.Image
    ears: Image.Image
    muzzle: Image.Image
    chest: Image.Image | None
    paws: Image.Image
    tail: Image.Image
    patch: Image.Image | None
    mask: Image.Image | None
    blaze: Image.Image | None
    inner_ear: Colour
    nose: Colour
    eye: Colour
    line: Colour  # mouth and the rims of the eyes
    whisker: Colour


def fur_field(rng: np.random.Generator, size: Size, scale: float) -> Image.Image:
    """Fur without its colour, mode L: fine hairs, locks and slow changes of tone.

    `scale` is the animal's height in pixels: on a close-up the hairs are longer.
    """
    hair = min(2.0, max(1.0, scale / 180))
    hairs = noise(rng, size, (1.1 * hair, 4.2 * hair))
    locks = noise(rng, size, (3.0 * hair, 8.0 * hair))
    tone = noise(rng, size, (scale / 4, scale / 4))
    return mix_fields((7, hairs), (5, locks), (7, tone))


def _fur(colour: Colour, field: Image.Image) -> Image.Image:
    # Pale fur is darkened more than lightened: white hair has shadows, not highlights.
    red, green, blue = colour
    light = (
        min(255, red * 6 // 5 + 14),
        min(255, green * 6 // 5 + 14),
        min(255, blue * 6 // 5 + 14),
    )
    return ramp(field, scaled(colour, 68), light)


def _stripes(
    rng: np.random.Generator, size: Size, period: float, across: tuple[int, int]
) -> Image.Image:
    """Wavering stripes as a mask; `across` is the direction that crosses them, in 1/64."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]].astype(np.int32)
    waver = np.asarray(noise(rng, size, (period * 2.2, period * 2.2)), dtype=np.int32) - 128
    breaks = np.asarray(noise(rng, size, (period * 1.2, period * 1.8)), dtype=np.int32) - 128
    step = round(4 * 1024 / period)  # 1024 to one period, in 1/256
    phase = ((columns * across[0] + rows * across[1]) * step // 256 + waver * 3) % 1024
    height = np.abs(phase - 512) // 2 + breaks // 2  # a triangle wave, 0 to 256, broken up
    return look_up(Image.fromarray(height.clip(0, 255).astype(np.uint8)), steps_between(118, 176))


def _faint(mask: Image.Image) -> Image.Image:
    return look_up(mask, levels(0, 150))


def _spots(rng: np.random.Generator, size: Size, period: float) -> Image.Image:
    """Spots of uneven size, as a mask."""
    field = mix_fields(
        (18, noise(rng, size, (period, period * 0.8))),
        (5, noise(rng, size, (period * 0.4, period * 0.4))),
    )
    return look_up(field, steps_between(148, 168))


def _patches(rng: np.random.Generator, size: Size, scale: float) -> Image.Image:
    """A few large patches with furry edges, as a mask."""
    field = mix_fields(
        (28, noise(rng, size, (scale * 0.42, scale * 0.42))),
        (4, noise(rng, size, (2.0, 4.0))),
    )
    return look_up(field, steps_between(142, 160))


def _saddle(rng: np.random.Generator, size: Size, top: float, bottom: float) -> Image.Image:
    """Dark above, light below, with an uneven furry edge, as a mask."""
    height = max(bottom - top, 1.0)
    rows = (128 + (0.46 * height - (np.arange(size[1]) - top)) * (420 / height)).clip(0, 255)
    down = Image.fromarray(np.repeat(np.rint(rows).astype(np.uint8)[:, None], size[0], axis=1))
    field = mix_fields(
        (16, down),
        (9, noise(rng, size, (height * 0.16, height * 0.12))),
        (4, noise(rng, size, (2.0, 5.0))),
    )
    return look_up(field, steps_between(112, 150))


def make_coat(
    rng: np.random.Generator, breed: Breed, size: Size, scale: float, top: float, bottom: float
) -> Coat:
    """Draws the coat of one animal.

    Args:
        rng: the animal's own stream.
        breed: what it is.
        size: of the part of the picture where the animal is, in pixels.
        scale: the animal's height in pixels.
        top: the row of its back, in pixels of that part (may be outside it).
        bottom: the row of its belly.
    """
    ground, markings = breed.colours[int(rng.integers(len(breed.colours)))]
    ground, markings = vary(rng, ground, 16), vary(rng, markings, 12)
    field = fur_field(rng, size, scale)
    plain, marked = _fur(ground, field), _fur(markings, field)
    white = _fur(vary(rng, WHITE if chance(rng, 0.6) else CREAM, 10), field)
    body = limbs = head = ears = tail = plain
    patch: Image.Image | None = None
    mask: Image.Image | None = None
    if breed.pattern == "tabby":
        period = scale * pick(rng, 0.07, 0.095)
        slant = int(rng.integers(-24, 25))
        body = Image.composite(marked, plain, _stripes(rng, size, period, (64, slant)))
        limbs = Image.composite(marked, plain, _stripes(rng, size, period * 0.8, (slant // 2, 64)))
        head = Image.composite(marked, plain, _faint(_stripes(rng, size, period * 0.6, (64, 10))))
        tail, ears = limbs, plain
    elif breed.pattern == "spotted":
        spots = _spots(rng, size, scale * pick(rng, 0.035, 0.05))
        body = Image.composite(marked, plain, spots)
        limbs = tail = Image.composite(
            marked, plain, _stripes(rng, size, scale * 0.07, (int(rng.integers(-12, 13)), 64))
        )
        head = Image.composite(marked, plain, _faint(_stripes(rng, size, scale * 0.055, (64, 10))))
    elif breed.pattern == "points":
        limbs = ears = tail = mask = marked
    elif breed.pattern == "patches":
        body = Image.composite(marked, plain, _patches(rng, size, scale))
        head = plain if chance(rng, 0.6) else marked
        ears = tail = marked
        patch = marked if chance(rng, 0.7) else None
    elif breed.pattern == "saddle":
        body = Image.composite(marked, plain, _saddle(rng, size, top, bottom))
        tail = marked
        ears = marked if breed.ears == "pricked" or chance(rng, 0.4) else plain
        mask = marked if breed.ears == "pricked" and chance(rng, 0.6) else None
    else:
        soft = look_up(noise(rng, size, (scale * 0.3, scale * 0.3)), steps_between(60, 250))
        body = head = Image.composite(marked, plain, soft)
    is_cat = breed.species == "Cat"
    is_pale = chance(rng, breed.pale)
    if is_pale:
        muzzle = paws = white
    else:
        muzzle, paws = mask or _fur(scaled(ground, 108), field), limbs
    has_blaze = is_pale and breed.pale > 0.5 and not (is_cat and chance(rng, 0.6))
    is_dark = sum(ground) < 240
    pink = vary(rng, (196, 142, 132), 12)
    return Coat(
        body=body,
        limbs=limbs,
        head=head,
        ears=ears,
        muzzle=muzzle,
        chest=white if is_pale else None,
        paws=paws,
        tail=tail,
        patch=patch,
        mask=mask,
        blaze=white if has_blaze else None,
        inner_ear=scaled(pink, 70) if is_dark else pink,
        nose=pink if is_cat and not is_dark and mask is None else (34, 28, 30),
        eye=vary(rng, choose(rng, breed.eyes), 16),
        line=(36, 26, 26) if not is_dark else (14, 12, 14),
        whisker=(236, 232, 226) if sum(ground) < 560 else (250, 250, 246),
    )
