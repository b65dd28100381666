"""Rooms and meadows, and things in them that are not pets."""

import numpy as np
from PIL import Image

from data.synthetic_pets.drawing import BLACK, WHITE, Brush, Color, mixed, noise, textured, varied
from data.synthetic_pets.pets import COATS

Colors = list[Color]
WALLS = [(170, 196, 214), (196, 214, 190), (206, 190, 214), (150, 176, 170), (120, 140, 176)]
FLOORS = [(96, 110, 140), (120, 150, 128), (150, 96, 106), (172, 176, 186), (88, 130, 136)]
GREENS = [(96, 146, 64), (70, 124, 58), (128, 162, 74), (86, 136, 96)]
SKIES = [(150, 192, 232), (196, 214, 228), (176, 200, 238)]
THINGS = [(60, 110, 180), (190, 60, 70), (60, 150, 120), (150, 90, 170), (230, 190, 60)]
# How often a wall or a ground has a coat's colour: camouflage, as it happens.
CAMOUFLAGE = 0.12


def draw(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Image.Image:
    """Draws a scene without a pet: RGB of a width and height; the ground begins at `horizon`."""
    scene = (_room if rng.random() < 0.55 else _meadow)(rng, size, horizon)
    if rng.random() < 0.4:
        place = float(rng.uniform(0.05, 0.95) * size[0]), float(rng.uniform(horizon, size[1]))
        ball, color = Brush(scene, place, min(size) * float(rng.uniform(0.03, 0.07))), _thing(rng)
        ball.oval(0, 0, 1, 1, color)
        ball.oval(-0.33, -0.33, 0.25, 0.25, mixed(color, WHITE))
    return scene


def _one(rng: np.random.Generator, colors: Colors, by: int = 18) -> Color:
    return varied(rng, colors[rng.integers(len(colors))], by)


def _thing(rng: np.random.Generator) -> Color:
    return _one(rng, THINGS, 30)


def _ground(rng: np.random.Generator, colors: Colors) -> Color:
    return _one(rng, [coat for coat, _ in COATS] if rng.random() < CAMOUFLAGE else colors)


def _room(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Image.Image:
    width, height = size
    wall, floor = Image.new("RGB", size, _ground(rng, WALLS)), _ground(rng, FLOORS)
    scene = textured(wall, noise(rng, size, width / 3), 0.1)
    ground = Image.new("RGB", (width, height - round(horizon)), floor)
    if rng.random() < 0.5:
        boards = Brush(ground, (width / 2, 0), width)
        for x in np.linspace(-1.5, 1.5, 19).tolist():
            boards.line([(0.6 * x, 0), (x, ground.height / width)], 0.006, mixed(floor, BLACK))
    scene.paste(textured(ground, noise(rng, ground.size, width / 40), 0.08), (0, round(horizon)))
    brush = Brush(scene, (0, horizon), width)
    brush.line([(0, 0), (1, 0)], 0.015, varied(rng, (236, 234, 228)))
    for place in rng.permutation(4)[: rng.integers(1, 4)].tolist():
        thing = (_painting, _plant, _sofa, _window)[rng.integers(4)]
        thing(rng, brush, place / 4 + float(rng.uniform(0, 0.08)))
    return scene


def _painting(rng: np.random.Generator, brush: Brush, x: float) -> None:
    y = -float(rng.uniform(0.25, 0.45))
    for inset, color in ((0, (90, 60, 40)), (0.012, (240, 238, 230)), (0.03, _thing(rng))):
        brush.box((x + inset, y + inset), (0.17 - 2 * inset, 0.14 - 2 * inset), color)


def _window(rng: np.random.Generator, brush: Brush, x: float) -> None:
    brush.box((x, -0.5), (0.26, 0.34), (244, 244, 240))
    for left in (0.015, 0.135):
        brush.box((x + left, -0.485), (0.11, 0.31), _one(rng, SKIES))


def _plant(rng: np.random.Generator, brush: Brush, x: float) -> None:
    green = _one(rng, GREENS)
    for angle in np.linspace(-1.1, 1.1, 9).tolist():
        tip = (x + 0.08 + 0.17 * np.sin(angle), -0.1 - 0.24 * np.cos(angle))
        brush.limb([(x + 0.08, -0.06), tip], [0.006, 0.02, 0.004], varied(rng, green, 20))
    pot = [(x + 0.03, -0.1), (x + 0.13, -0.1), (x + 0.115, 0.03), (x + 0.045, 0.03)]
    brush.shape(pot, _thing(rng), 0)


def _sofa(rng: np.random.Generator, brush: Brush, x: float) -> None:
    color = _thing(rng)
    brush.box((x, -0.26), (0.5, 0.3), mixed(color, mixed(color, BLACK)), 2)
    for left in (-0.03, 0.46):
        brush.box((x + left, -0.16), (0.08, 0.23), color, 1)
    brush.box((x + 0.02, -0.1), (0.46, 0.15), color, 1)


def _meadow(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Image.Image:
    width, height = size
    sky = Image.new("RGB", size, _one(rng, SKIES))
    scene = textured(sky, noise(rng, size, width / 4), 0.06)
    brush = Brush(scene, (0, horizon), width)
    for x in rng.uniform(-0.1, 1.1, rng.integers(2, 7)).tolist():
        tree, crown = float(rng.uniform(0.08, 0.2)), varied(rng, (58, 96, 60), 24)
        brush.limb([(x, 0), (x, -1.6 * tree)], [0.14 * tree] * 2, varied(rng, (96, 84, 76)))
        for dx, dy in rng.normal(0, 0.35 * tree, (6, 2)).tolist():
            brush.oval(x + dx, -2 * tree + dy, 0.6 * tree, 0.55 * tree, varied(rng, crown))
    if rng.random() < 0.35:
        wood = varied(rng, (150, 150, 156))
        for x in np.arange(0, 1, 0.07).tolist():
            brush.box((x, -0.16), (0.03, 0.17), wood)
        brush.line([(0, -0.11), (1, -0.11)], 0.02, wood)
    grass, depth = _ground(rng, GREENS), (height - horizon) / width
    ground = Image.new("RGB", (width, height - round(horizon)), grass)
    scene.paste(textured(ground, noise(rng, ground.size, width / 25), 0.16), (0, round(horizon)))
    for x, y in rng.uniform(0, 1, (240, 2)).tolist():
        root = (x, depth * y**0.7)
        tip = (x + float(rng.normal(0, 0.012)), root[1] - 0.05 * (0.3 + root[1]))
        brush.line([root, tip], 0.004, varied(rng, grass, 34))
    for x, y in rng.uniform(0, 1, (25 * int(rng.random() < 0.4), 2)).tolist():
        brush.oval(x, depth * y, 0.008, 0.008, _one(rng, [(250, 240, 240), (240, 210, 80)]))
    return scene
