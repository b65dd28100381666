"""Places: rooms, sofas, gardens, streets and blankets, furnished but without the pet."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic_pets.canvas import Canvas
from data.synthetic_pets.drawing import Size, chance, pick, rectangle, scaled, tube, vary
from data.synthetic_pets.surfaces import (
    COVERS,
    FLOORS,
    GROUNDS,
    WALLS,
    Texture,
    bricks,
    coat_like,
    foliage,
    planks,
    sky,
)
from data.synthetic_pets.things import THINGS


class Scene(NamedTuple):
    """A furnished place.

    Attributes:
        canvas: the place, without a pet.
        ground: the row, in pixels, from which downwards an animal can stand.
    """

    canvas: Canvas
    ground: float


def _one_of(rng: np.random.Generator, textures: tuple[Texture, ...], size: Size) -> Image.Image:
    return textures[int(rng.integers(len(textures)))](rng, size)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    return pick(rng, -1, 1), pick(rng, -0.9, 0.1)


def _one_above_the_other(
    rng: np.random.Generator,
    upper: tuple[Texture, ...],
    lower: tuple[Texture, ...],
    size: Size,
    row: int,
) -> Image.Image:
    joined = Image.new("RGB", size)
    joined.paste(_one_of(rng, upper, (size[0], row)), (0, 0))
    joined.paste(_one_of(rng, lower, (size[0], size[1] - row)), (0, row))
    return joined


def _scatter(rng: np.random.Generator, canvas: Canvas, ground: float, count: int) -> None:
    width, height = canvas.size
    feet = sorted(pick(rng, ground + 0.02 * height, height * 1.02) for _ in range(count))
    for y in feet:
        # Things further back look smaller.
        size = min(width, height) * pick(rng, 0.16, 0.5) * (0.55 + 0.55 * y / height)
        thing = THINGS[int(rng.integers(len(THINGS)))]
        thing(rng, canvas, width * pick(rng, -0.05, 1.05), y, size, False)


def _window(rng: np.random.Generator, canvas: Canvas, ground: float) -> None:
    width = canvas.size[0]
    left = width * pick(rng, -0.1, 0.8)
    right = left + width * pick(rng, 0.2, 0.45)
    bottom = ground * pick(rng, 0.45, 0.8)
    frame = coat_like(rng)
    canvas.paint([rectangle(left - 4, -9, right + 4, bottom + 4)], frame, relief=3)
    outside = (sky if chance(rng, 0.6) else foliage)(rng, (110, 90))
    canvas.paint([rectangle(left, -9, right, bottom)], outside, brightness=112)
    middle = (left + right) / 2
    canvas.paint([rectangle(middle - 2, -9, middle + 2, bottom)], frame)


def _picture_on_wall(rng: np.random.Generator, canvas: Canvas, ground: float) -> None:
    width = canvas.size[0]
    x, y = width * pick(rng, 0, 0.9), ground * pick(rng, 0.05, 0.4)
    w, h = width * pick(rng, 0.12, 0.3), ground * pick(rng, 0.2, 0.45)
    canvas.paint([rectangle(x - 3, y - 3, x + w + 3, y + h + 3)], coat_like(rng), contact=30)
    canvas.paint([rectangle(x, y, x + w, y + h)], _one_of(rng, (*COVERS, foliage), (90, 70)))


def _cupboard(rng: np.random.Generator, canvas: Canvas, ground: float) -> None:
    width = canvas.size[0]
    x, w = width * pick(rng, -0.2, 0.8), width * pick(rng, 0.25, 0.5)
    top, bottom = ground * pick(rng, 0.0, 0.6), ground * pick(rng, 1.0, 1.08)
    colour = coat_like(rng, 0.9)
    canvas.paint([rectangle(x, top, x + w, bottom)], colour, relief=4, contact=40)
    for k in range(2):
        door = rectangle(x + w * (0.06 + 0.47 * k), top + 6, x + w * (0.47 + 0.47 * k), bottom - 8)
        canvas.paint([door], scaled(colour, 88), relief=3)


def _curtain(rng: np.random.Generator, canvas: Canvas, ground: float) -> None:
    width = canvas.size[0]
    left = -4.0 if chance(rng, 0.5) else width * pick(rng, 0.7, 0.85)
    cover = _one_of(rng, COVERS, (24, 120))
    w = width * pick(rng, 0.15, 0.35)
    for k in range(4):
        fold = rectangle(left + w * k / 4, -9, left + w * (k + 1) / 4 + 1, ground * 1.03)
        canvas.paint([fold], cover, relief=w * 0.07, contact=16)


def room(rng: np.random.Generator, size: Size) -> Scene:
    """A wall, a floor and some furniture."""
    row = round(size[1] * pick(rng, 0.3, 0.72))
    canvas = Canvas(_one_above_the_other(rng, WALLS, FLOORS, size, row), rng, _light(rng))
    if chance(rng, 0.7):
        board = rectangle(-5, row - size[1] * 0.035, size[0] + 5, row)
        canvas.paint([board], coat_like(rng), relief=2, contact=30)
    for furnish, share in (
        (_window, 0.3),
        (_picture_on_wall, 0.3),
        (_cupboard, 0.35),
        (_curtain, 0.25),
    ):
        if chance(rng, share):
            furnish(rng, canvas, row)
    if chance(rng, 0.4):
        rug = np.array([(0.15, 0.35), (0.85, 0.35), (1.1, 1.1), (-0.1, 1.1)])
        rug = rug * (size[0], size[1] - row) + (size[0] * pick(rng, -0.2, 0.2), row)
        canvas.paint([rug], _one_of(rng, COVERS, size), ruffle=1.5, contact=15)
    _scatter(rng, canvas, row, int(rng.integers(1, 4)))
    return Scene(canvas, row)


def sofa(rng: np.random.Generator, size: Size) -> Scene:
    """A sofa or bed that fills the picture: a back, a seat, perhaps an arm, cushions."""
    width, height = size
    row = round(height * pick(rng, 0.42, 0.68))
    canvas = Canvas(_one_of(rng, WALLS, size), rng, _light(rng))
    cover = _one_of(rng, COVERS, size)
    top = height * pick(rng, -0.05, 0.3)
    count = int(rng.integers(1, 4))
    for k in range(count):
        left, right = width * k / count - 4, width * (k + 1) / count + 4
        canvas.paint([rectangle(left, top, right, height)], cover, relief=width * 0.06, contact=30)
    canvas.paint(
        [rectangle(-20, row, width + 20, height + 30)],
        cover,
        brightness=108,
        relief=height * 0.05,
        contact=35,
    )
    if chance(rng, 0.4):
        x = 0.0 if chance(rng, 0.5) else float(width)
        arm = rectangle(x - width * 0.16, row - height * 0.22, x + width * 0.16, height + 9)
        canvas.paint([arm], cover, relief=width * 0.07, contact=35)
    _scatter(rng, canvas, row, int(rng.integers(0, 3)))
    return Scene(canvas, row + 0.1 * (height - row))


def garden(rng: np.random.Generator, size: Size) -> Scene:
    """Grass or gravel before a hedge, a fence, a wall or the open sky."""
    width, height = size
    row = round(height * pick(rng, 0.22, 0.6))
    behind = (foliage, foliage, planks, sky, bricks)
    canvas = Canvas(_one_above_the_other(rng, behind, GROUNDS, size, row), rng, _light(rng))
    if chance(rng, 0.4):
        bush = foliage(rng, (120, 90))
        x, w, h = (
            width * pick(rng, 0, 1),
            width * pick(rng, 0.15, 0.4),
            height * pick(rng, 0.15, 0.4),
        )
        blob = np.array([(-1, 0), (-0.8, -0.7), (0, -1), (0.8, -0.6), (1, 0)]) * (w, h) + (
            x,
            row + 4,
        )
        canvas.paint([blob], bush, ruffle=4, contact=30)
    if chance(rng, 0.35):
        x, w = width * pick(rng, 0, 1), width * pick(rng, 0.03, 0.09)
        bark = planks(rng, (40, 120))
        trunk = tube([(x, -9, w), (x + w * 0.3, row * 0.5, w), (x, row + height * 0.08, w * 1.25)])
        canvas.paint(trunk, bark, relief=w * 0.7, ruffle=1.5, contact=20)
    if chance(rng, 0.3):
        path = np.array([(0.42, 0.0), (0.6, 0.0), (0.95, 1.05), (0.1, 1.05)])
        path = path * (width, height - row) + (width * pick(rng, -0.35, 0.35), row)
        canvas.paint([path], _one_of(rng, GROUNDS, size), ruffle=3)
    _scatter(rng, canvas, row, int(rng.integers(0, 3)))
    _blades(rng, canvas, row)
    return Scene(canvas, row + 0.08 * (height - row))


def _blades(rng: np.random.Generator, canvas: Canvas, ground: int) -> None:
    draw = ImageDraw.Draw(canvas.image)
    width, height = canvas.size
    if ground >= height - 8:
        return
    colour = coat_like(rng, 0.4)
    tones = [vary(rng, colour, 24) for _ in range(5)]
    for x, y, lean in rng.integers((0, ground, -6), (width, height, 7), (70, 3)).tolist():
        tall = 4 + 12 * (y - ground) // (height - ground)
        draw.line((x, y, x + lean, y - tall), fill=tones[x % 5], width=1)


def blanket(rng: np.random.Generator, size: Size) -> Scene:
    """One covering seen from above or close by, with another thrown over a part of it."""
    width, height = size
    canvas = Canvas(_one_of(rng, (*COVERS, *FLOORS), size), rng, _light(rng))
    if chance(rng, 0.6):
        row = height * pick(rng, 0.15, 0.55)
        fold = np.array(
            [
                (-9, row),
                (width * 0.5, row + height * pick(rng, -0.12, 0.12)),
                (width + 9.0, row),
                (width + 9.0, height + 9),
                (-9, height + 9),
            ]
        )
        canvas.paint([fold], _one_of(rng, COVERS, size), relief=height * 0.03, contact=40)
    _scatter(rng, canvas, height * 0.2, int(rng.integers(0, 4)))
    return Scene(canvas, height * 0.45)


_SCENES = ((room, 40), (sofa, 20), (garden, 27), (blanket, 13))  # with their shares, in percent


def make_scene(rng: np.random.Generator, size: Size) -> Scene:
    """One of the places, by its share."""
    draw = int(rng.integers(100))
    for scene, share in _SCENES:
        if draw < share:
            return scene(rng, size)
        draw -= share
    raise AssertionError("the shares of _SCENES do not add up to 100")
