"""What walls, floors, furniture and ground are made of, each as a picture-sized texture."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic_pets.breeds import COAT_COLOURS
from data.synthetic_pets.coats import fur_field
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

PAINTS: tuple[Colour, ...] = (
    (120, 142, 128),
    (150, 166, 178),
    (176, 74, 62),
    (68, 92, 128),
    (206, 186, 120),
    (112, 58, 70),
    (88, 126, 84),
)
GREENS: tuple[Colour, ...] = ((96, 122, 58), (122, 136, 74), (74, 96, 52), (150, 142, 88))
LEAVES: tuple[Colour, ...] = ((70, 94, 48), (120, 112, 58), (138, 92, 50), (60, 74, 52))

Texture = Callable[[np.random.Generator, Size], Image.Image]


def coat_like(rng: np.random.Generator, coat_share: float = 0.7) -> Colour:
    """A colour for a thing: most often one that coats have, so that colour tells little."""
    return vary(rng, choose(rng, COAT_COLOURS if chance(rng, coat_share) else PAINTS), 18)


def _grain(field: Image.Image, colour: Colour, depth: int = 28) -> Image.Image:
    return ramp(field, scaled(colour, 100 - depth), scaled(colour, 100 + depth))


def plaster(rng: np.random.Generator, size: Size) -> Image.Image:
    """A painted wall: faint stains and grain."""
    field = mix_fields((8, noise(rng, size, (60, 60))), (3, noise(rng, size, (1.5, 1.5))))
    return _grain(field, coat_like(rng), 22)


def wallpaper(rng: np.random.Generator, size: Size) -> Image.Image:
    """Vertical stripes or rows of dots."""
    colour, other = coat_like(rng), coat_like(rng)
    pattern = Image.new("L", size)
    draw = ImageDraw.Draw(pattern)
    period = int(rng.integers(12, 40))
    if chance(rng, 0.5):
        for x in range(0, size[0], period):
            draw.rectangle((x, 0, x + period // 2, size[1]), fill=200)
    else:
        dot = period // 4
        for row, y in enumerate(range(0, size[1], period)):
            for x in range((row % 2) * period // 2, size[0], period):
                draw.ellipse((x, y, x + dot, y + dot), fill=220)
    return Image.composite(
        ramp(noise(rng, size, (2, 2)), other, scaled(other, 115)),
        _grain(noise(rng, size, (70, 70)), colour),
        pattern,
    )


def bricks(rng: np.random.Generator, size: Size) -> Image.Image:
    """Courses of bricks, or of tiles when they are square."""
    height = int(rng.integers(12, 30))
    width = height * (2 if chance(rng, 0.7) else 1)
    tones = Image.new("L", size, 40)
    draw = ImageDraw.Draw(tones)
    for row, y in enumerate(range(-4, size[1], height)):
        offset = (row % 2) * width // 2
        shades = rng.integers(105, 200, size[0] // width + 2).tolist()
        for i, shade in enumerate(shades):
            x = i * width - offset
            draw.rectangle((x + 1, y + 1, x + width - 2, y + height - 2), fill=shade)
    field = mix_fields((14, tones), (5, noise(rng, size, (2.2, 2.2))))
    return _grain(field, coat_like(rng), 45)


def planks(rng: np.random.Generator, size: Size) -> Image.Image:
    """Floorboards that run away from the viewer, or a fence when they stand upright."""
    converging = pick(rng, 1.0, 3.5)
    width = size[0] / int(rng.integers(5, 12))
    centre = size[0] * pick(rng, 0.2, 0.8)
    tones = Image.new("L", size, 120)
    draw = ImageDraw.Draw(tones)
    count = int(size[0] / width * 2) + 2
    for i in range(-count, count):
        top, bottom = centre + i * width, centre + i * width * converging
        shade = int(rng.integers(95, 165))
        corners = [(top, 0), (top + width, 0), (bottom + width * converging, size[1])]
        draw.polygon([(round(x), y) for x, y in [*corners, (bottom, size[1])]], fill=shade)
        draw.line((round(top), 0, round(bottom), size[1]), fill=36, width=1)
    field = mix_fields((13, tones), (5, noise(rng, size, (3, 30))), (4, noise(rng, size, (1.3, 9))))
    return _grain(field, coat_like(rng, 0.92), 50)


def carpet(rng: np.random.Generator, size: Size) -> Image.Image:
    """Short pile; sometimes a woven check over it."""
    field = mix_fields(
        (8, noise(rng, size, (1.4, 1.4))),
        (5, noise(rng, size, (5, 4))),
        (6, noise(rng, size, (50, 30))),
    )
    picture = _grain(field, coat_like(rng), 34)
    if chance(rng, 0.4):
        check = Image.new("L", size)
        draw = ImageDraw.Draw(check)
        period = int(rng.integers(18, 60))
        for x in range(0, size[0], period):
            draw.rectangle((x, 0, x + period // 3, size[1]), fill=120)
        for y in range(0, size[1], period):
            draw.rectangle((0, y, size[0], y + period // 4), fill=150)
        picture = Image.composite(_grain(field, coat_like(rng), 34), picture, check)
    return picture


def shaggy(rng: np.random.Generator, size: Size) -> Image.Image:
    """A sheepskin, a plush throw: the same hairs and tones as a coat."""
    colour = coat_like(rng, 1.0)
    field = fur_field(rng, size, pick(rng, 90, 300))
    picture = _grain(field, colour, 34)
    if chance(rng, 0.35):
        spots = look_up(noise(rng, size, (pick(rng, 10, 40),) * 2), steps_between(150, 176))
        picture = Image.composite(_grain(field, coat_like(rng, 1.0), 34), picture, spots)
    return picture


def cloth(rng: np.random.Generator, size: Size) -> Image.Image:
    """Folded fabric, plain or striped."""
    folds = mix_fields(
        (18, noise(rng, size, (pick(rng, 20, 70), pick(rng, 40, 120)))),
        (3, noise(rng, size, (1.6, 1.6))),
    )
    picture = _grain(folds, coat_like(rng), 45)
    if chance(rng, 0.3):
        bent = np.asarray(noise(rng, size, (110, 90)), dtype=np.int32)
        columns = np.arange(size[0], dtype=np.int32)[None, :]
        period = int(rng.integers(10, 34))
        stripe = ((columns * 6 + bent) // (period * 3)) % 2 * 200
        mask = Image.fromarray(stripe.astype(np.uint8))
        picture = Image.composite(_grain(folds, coat_like(rng), 45), picture, mask)
    return picture


def grass(rng: np.random.Generator, size: Size) -> Image.Image:
    """A lawn, green or dry."""
    field = mix_fields(
        (9, noise(rng, size, (1.5, 5))),
        (7, noise(rng, size, (5, 8))),
        (6, noise(rng, size, (40, 18))),
    )
    colour = vary(rng, choose(rng, GREENS if chance(rng, 0.6) else COAT_COLOURS[2:6]), 16)
    return _grain(field, colour, 45)


def litter(rng: np.random.Generator, size: Size) -> Image.Image:
    """Fallen leaves, gravel or sand, by the size of the grain."""
    grain = pick(rng, 2, 14)
    field = mix_fields(
        (12, noise(rng, size, (grain, grain * 0.6))),
        (8, noise(rng, size, (2, 1.6))),
        (5, noise(rng, size, (60, 30))),
    )
    return _grain(field, coat_like(rng, 0.95), 46)


def foliage(rng: np.random.Generator, size: Size) -> Image.Image:
    """A hedge or a wood: leaves over darkness."""
    tones = look_up(noise(rng, size, (30, 30)), levels(0, 127))
    draw = ImageDraw.Draw(tones)
    leaf = int(rng.integers(5, 15))
    for x, y, shade in rng.integers(
        0, (size[0], size[1], 256), (size[0] * size[1] // 220, 3)
    ).tolist():
        wide, tall = leaf // 2 + shade % 5, leaf // 3 + shade % 4
        draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=30 + shade * 3 // 4)
    field = mix_fields((13, tones), (5, noise(rng, size, (2, 2))))
    colour = vary(rng, choose(rng, LEAVES), 14)
    return ramp(field, scaled(colour, 26), scaled(colour, 160))


def sky(rng: np.random.Generator, size: Size) -> Image.Image:
    """Sky with clouds, or haze."""
    clouds = mix_fields((12, noise(rng, size, (90, 40))), (5, noise(rng, size, (25, 14))))
    blue: Colour = (120, 156, 202) if chance(rng, 0.6) else (176, 178, 180)
    return ramp(clouds, vary(rng, blue, 16), (236, 236, 234))


def darkness(rng: np.random.Generator, size: Size) -> Image.Image:
    """A room that the flash did not reach."""
    field = mix_fields((10, noise(rng, size, (70, 70))), (3, noise(rng, size, (2, 2))))
    return ramp(field, (12, 11, 12), vary(rng, (66, 54, 48), 16))


WALLS: tuple[Texture, ...] = (plaster, plaster, wallpaper, bricks, cloth, planks, darkness)
FLOORS: tuple[Texture, ...] = (planks, planks, carpet, carpet, bricks, shaggy, cloth)
COVERS: tuple[Texture, ...] = (cloth, cloth, shaggy, carpet)
GROUNDS: tuple[Texture, ...] = (grass, grass, grass, litter, bricks)
