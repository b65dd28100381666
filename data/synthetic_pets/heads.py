"""Heads of cats and dogs, facing the viewer or in profile, in units of half the head's width.

The head's centre is (0, 0), up is negative. Parts are listed from back to front.
"""

from typing import Literal, NamedTuple

import numpy as np

from data.synthetic_pets.breeds import Breed
from data.synthetic_pets.drawing import (
    Outline,
    chance,
    closed_curve,
    ellipse,
    mirrored_curve,
    pick,
    tube,
)

# Surfaces and colours of a coat (see coats.Coat), and three that every face has.
HeadSurface = Literal[
    "head",
    "ears",
    "muzzle",
    "patch",
    "mask",
    "blaze",
    "inner_ear",
    "nose",
    "eye",
    "line",
    "whisker",
    "pupil",
    "glint",
    "tongue",
]


class HeadPart(NamedTuple):
    """Some outlines of a head painted as one surface."""

    surface: HeadSurface
    outlines: list[Outline]  # each [points, 2]
    brightness: int = 100  # percent
    relief: float = 0.0  # how rounded, in half head widths
    feather: float = 0.0  # how softly a marking fades into the coat, in half head widths
    is_outline: bool = False  # part of the animal's silhouette, with a furry edge


def _both(outline: Outline) -> list[Outline]:
    return [outline, outline * (-1.0, 1.0)]


def _almond(x: float, y: float, width: float, height: float, slant: float) -> Outline:
    # Corners level with the centre, raised by the slant on the outer side.
    return closed_curve(
        [
            (x - width, y + slant * 0.5),
            (x - width * 0.2, y - height),
            (x + width * 0.7, y - height * 0.8 - slant * 0.5),
            (x + width, y - slant),
            (x + width * 0.4, y + height * 0.75),
            (x - width * 0.4, y + height * 0.9),
        ],
        4,
    )


def _turned(parts: list[HeadPart], turn: float) -> list[HeadPart]:
    """Moves the features sideways on the skull, as when the head turns by `turn` (-1 to 1)."""
    squeeze, shift = np.array((1 - 0.1 * abs(turn), 1.0)), np.array((0.26 * turn, 0.0))
    return [p._replace(outlines=[o * squeeze + shift for o in p.outlines]) for p in parts]


def _eyes(breed: Breed, rng: np.random.Generator, is_asleep: bool) -> list[HeadPart]:
    is_cat = breed.species == "Cat"
    x, y = (0.42, -0.06) if is_cat else (0.37, -0.2)
    if is_asleep:
        lid = tube([(x - 0.17, y, 0.025), (x, y + 0.08, 0.035), (x + 0.19, y - 0.03, 0.025)])
        return [HeadPart("line", [p for o in lid for p in _both(o)])]
    glints = [ellipse(s * x - 0.05, y - 0.06, 0.035, 0.035) for s in (-1, 1)]
    if is_cat:
        slant = pick(rng, 0.02, 0.09)
        width, height = pick(rng, 0.18, 0.22), pick(rng, 0.12, 0.19)
        pupil = ellipse(x, y - 0.01, pick(rng, 0.03, 0.11), height * 0.86)
        return [
            HeadPart("line", _both(_almond(x, y, width + 0.05, height + 0.045, slant))),
            HeadPart("eye", _both(_almond(x, y, width, height, slant))),
            HeadPart("pupil", _both(pupil)),
            HeadPart("glint", glints),
        ]
    size = pick(rng, 0.11, 0.14)
    return [
        HeadPart("line", _both(_almond(x, y, size + 0.05, size + 0.02, -0.03))),
        HeadPart("eye", _both(ellipse(x, y, size * 0.9, size * 0.9))),
        HeadPart("pupil", _both(ellipse(x, y, size * 0.5, size * 0.5))),
        HeadPart("glint", glints),
    ]


def _cat_face(breed: Breed, rng: np.random.Generator, is_asleep: bool) -> list[HeadPart]:
    puff = pick(rng, 0.25, 0.3)
    nose = closed_curve([(0, 0.38), (-0.12, 0.26), (-0.04, 0.235), (0.04, 0.235), (0.12, 0.26)], 4)
    cheek = tube([(0, 0.36, 0.016), (0, 0.46, 0.018), (0.12, 0.55, 0.018), (0.26, 0.53, 0.008)])
    whiskers = []
    for s in (-1, 1):
        for k in range(3):
            droop = pick(rng, -0.08, 0.08)
            whiskers += tube(
                [
                    (s * 0.25, 0.4 + 0.07 * k, 0.012),
                    (s * 0.7, 0.3 + 0.13 * k, 0.011),
                    (s * 1.25, 0.3 + 0.2 * k + droop, 0.006),
                ]
            )
    return [
        HeadPart("mask", [closed_curve(_CAT_MASK)], feather=0.16),
        HeadPart(
            "muzzle",
            [*_both(ellipse(0.2, 0.47, puff, 0.23)), ellipse(0, 0.68, 0.2, 0.15)],
            104,
            feather=0.07,
        ),
        *_eyes(breed, rng, is_asleep),
        HeadPart("nose", [nose]),
        HeadPart("line", [p for o in cheek for p in _both(o)]),
        HeadPart("whisker", whiskers),
    ]


_CAT_MASK = [(0, -0.42), (0.34, -0.28), (0.56, 0.15), (0.42, 0.62), (0, 0.78), (-0.42, 0.62)]
_CAT_MASK += [(-0.56, 0.15), (-0.34, -0.28)]


def _dog_face(breed: Breed, rng: np.random.Generator, is_asleep: bool) -> list[HeadPart]:
    down = 0.42 * breed.muzzle  # the nose's height on the face
    wide = pick(rng, 0.4, 0.5)
    bridge = closed_curve(
        [
            (0, -0.3),
            (0.2, -0.1),
            (wide * 0.86, down),
            (wide, down + 0.3),
            (wide * 0.7, down + 0.58),
            (0, down + 0.68),
            (-wide * 0.7, down + 0.58),
            (-wide, down + 0.3),
            (-wide * 0.86, down),
            (-0.2, -0.1),
        ]
    )
    nose = closed_curve(
        [
            (0, down + 0.2),
            (0.12, down + 0.13),
            (0.21, down),
            (0.13, down - 0.12),
            (0, down - 0.14),
            (-0.13, down - 0.12),
            (-0.21, down),
            (-0.12, down + 0.13),
        ],
        4,
    )
    lip = tube(
        [
            (0, down + 0.16, 0.018),
            (0, down + 0.34, 0.022),
            (0.2, down + 0.45, 0.026),
            (wide * 0.9, down + 0.4, 0.012),
        ]
    )
    brow = ellipse(0.36, -0.42, 0.1, 0.055, -18)
    parts = [HeadPart("mask", [closed_curve(_DOG_MASK)], feather=0.16)]
    if chance(rng, 0.35):
        tongue = closed_curve(
            [
                (-0.15, down + 0.42),
                (0.15, down + 0.42),
                (0.17, down + 0.7),
                (0.05, down + 0.9),
                (-0.09, down + 0.88),
                (-0.17, down + 0.7),
            ]
        )
        parts.append(HeadPart("tongue", [tongue], relief=0.1, is_outline=True))
    return [
        *parts,
        HeadPart("muzzle", [bridge], 102, 0.2, feather=0.06),
        HeadPart("muzzle", _both(brow), feather=0.07),
        *_eyes(breed, rng, is_asleep),
        HeadPart("nose", [nose], relief=0.05),
        HeadPart("glint", [ellipse(-0.05, down - 0.08, 0.06, 0.022)], 62),
        HeadPart("line", [p for o in lip for p in _both(o)]),
    ]


_DOG_MASK = [(0, -0.35), (0.5, -0.3), (0.6, 0.2), (0.46, 1.0), (0, 1.2), (-0.46, 1.0)]
_DOG_MASK += [(-0.6, 0.2), (-0.5, -0.3)]


def _ear(breed: Breed, rng: np.random.Generator) -> tuple[Outline, Outline | None]:
    """The right ear and what shows of its inside."""
    w, h = pick(rng, 0.92, 1.1), pick(rng, 0.9, 1.12)
    if breed.ears == "pointed":
        splay = pick(rng, -0.08, 0.14)
        tip = (0.74 + splay, -0.62 - 0.86 * h)
        outer = [(0.16, -0.66), (0.36, -1.06), tip, (0.98, -0.92), (0.98, -0.28), (0.6, -0.3)]
        inner = [(0.4, -0.74), (0.5, -1.0), (tip[0] - 0.01, tip[1] + 0.2), (0.88, -0.85)]
        inner += [(0.86, -0.5)]
        return closed_curve(outer, 4), closed_curve(inner, 4)
    if breed.ears == "pricked":
        tip = (0.66 + pick(rng, -0.08, 0.12), -0.7 - 0.95 * h)
        outer = [(0.12, -0.62), (0.3, -1.15), tip, (0.86, -1.15), (0.88, -0.4), (0.5, -0.35)]
        inner = [(0.36, -0.72), (0.44, -1.1), (tip[0], tip[1] + 0.24), (0.76, -1.05), (0.72, -0.62)]
        return closed_curve(outer, 4), closed_curve(inner, 4)
    if breed.ears == "folded":
        outer = [(0.2, -0.7), (0.42, -1.0), (0.72 * w, -1.12 * h), (1.02 * w, -0.9)]
        outer += [(1.12 * w, -0.42), (0.98 * w, -0.22), (0.78, -0.5)]
        return closed_curve(outer, 4), None
    outer = [(0.5, -0.78), (0.8, -0.82), (1.06 * w, -0.5), (1.2 * w, 0.1), (1.16 * w, 0.62 * h)]
    outer += [(0.94 * w, 0.78 * h), (0.76 * w, 0.5), (0.68, -0.1), (0.58, -0.5)]
    return closed_curve(outer, 4), None


def facing(rng: np.random.Generator, breed: Breed) -> list[HeadPart]:
    """A head that looks at the viewer, or a little to one side.

    Args:
        rng: the animal's own stream.
        breed: decides species, ears and muzzle.
    """
    turn = pick(rng, -0.9, 0.9)
    is_asleep = chance(rng, 0.1)
    if breed.species == "Cat":
        wide = pick(rng, 0.96, 1.06)
        skull = [(0, -0.84), (0.46, -0.8), (0.86, -0.46), (1.0 * wide, 0.04), (0.92 * wide, 0.44)]
        skull += [(0.52, 0.78), (0, 0.9)]
        face = _cat_face(breed, rng, is_asleep)
    else:
        long = breed.muzzle
        skull = [(0, -0.88), (0.48, -0.84), (0.84, -0.46), (0.86, 0.02), (0.66, 0.42)]
        skull += [(0.52, 0.78 * long), (0.3, 1.06 * long), (0, 1.14 * long)]
        face = _dog_face(breed, rng, is_asleep)
    ear, inside = _ear(breed, rng)
    ears = _turned([HeadPart("ears", _both(ear), 96, 0.22, is_outline=True)], turn * 0.4)
    if inside is not None:
        ears += _turned([HeadPart("inner_ear", _both(inside), 84, 0.16)], turn * 0.4)
    head = HeadPart("head", [mirrored_curve(skull)], 102, 0.42, is_outline=True)
    markings = [HeadPart("patch", [ellipse(0.44, -0.3, 0.4, 0.5, -12)], feather=0.06)]
    blaze = closed_curve(
        [(0, -0.86), (0.1, -0.5), (0.1, 0.0), (0.3, 0.4), (-0.3, 0.4), (-0.1, 0.0), (-0.1, -0.5)]
    )
    markings.append(HeadPart("blaze", [blaze], feather=0.05))
    face = _turned([*markings, *face], turn)
    # Ears that stand up start behind the skull; hanging ones lie over its sides.
    return [head, *ears, *face] if breed.ears in ("floppy", "folded") else [*ears, head, *face]


def in_profile(rng: np.random.Generator, breed: Breed) -> list[HeadPart]:
    """A head seen from the side, looking towards +x; arguments as for `facing`."""
    if breed.species == "Cat":
        reach, drop = 0.84, 0.02
    else:
        reach, drop = 1.12 + 0.28 * breed.muzzle, 0.12
    skull = closed_curve(
        [
            (-0.86, 0.05),
            (-0.8, -0.5),
            (-0.35, -0.86),
            (0.18, -0.8),
            (0.5, -0.46),
            (reach * 0.84, -0.16 + drop),
            (reach, 0.02 + drop),
            (reach * 0.96, 0.3 + drop),
            (reach * 0.66, 0.5 + drop * 0.6),
            (0.2, 0.68),
            (-0.4, 0.72),
        ]
    )
    muzzle = ellipse(reach * 0.74, 0.22 + drop * 0.8, reach * 0.32, 0.24, 6)
    nose = ellipse(reach * 0.98, 0.0 + drop, 0.11 if breed.species == "Cat" else 0.16, 0.11, 25)
    mouth = tube(
        [
            (reach * 0.94, 0.26 + drop, 0.022),
            (reach * 0.74, 0.34 + drop * 0.7, 0.026),
            (reach * 0.5, 0.3 + drop * 0.4, 0.018),
        ]
    )
    x, y = (0.44, -0.2) if breed.species == "Cat" else (0.34, -0.3)
    eye = [
        HeadPart("line", [_almond(x, y, 0.17, 0.15, 0.02)]),
        HeadPart("eye", [ellipse(x + 0.01, y, 0.12, 0.115)]),
        HeadPart("pupil", [ellipse(x + 0.04, y, 0.05, 0.08)]),
        HeadPart("glint", [ellipse(x, y - 0.04, 0.03, 0.03)]),
    ]
    lift = pick(rng, 0.9, 1.12)
    inner: list[HeadPart] = []
    if breed.ears in ("pointed", "pricked"):
        tall = -0.6 - (0.86 if breed.ears == "pointed" else 1.0) * lift
        ear = [
            (-0.66, -0.5),
            (-0.6, -1.0),
            (-0.28, tall),
            (0.06, -1.0),
            (0.16, -0.72),
            (-0.2, -0.5),
        ]
        hollow = [(-0.4, -0.7), (-0.4, -1.0), (-0.27, tall + 0.24), (-0.04, -0.98), (0.02, -0.74)]
        inner = [HeadPart("inner_ear", [closed_curve(hollow, 4)], 80, 0.14)]
        far = [closed_curve(ear, 4) + np.array((0.34, 0.03))]
    elif breed.ears == "folded":
        ear = [(-0.5, -0.62), (-0.4, -1.02), (0.0, -1.1), (0.3, -0.82), (0.3, -0.46), (0.02, -0.56)]
        far = [closed_curve(ear, 4) + np.array((0.26, -0.04))]
    else:
        ear = [(-0.5, -0.6), (-0.18, -0.66), (0.02, -0.3), (0.02, 0.3), (-0.16, 0.66 * lift)]
        ear += [(-0.44, 0.56), (-0.58, 0.0)]
        far = []
    near = HeadPart("ears", [closed_curve(ear, 4)], 94, 0.2, is_outline=True)
    parts = [HeadPart("head", [skull], 101, 0.4, is_outline=True)]
    if far:
        parts.insert(0, HeadPart("ears", far, 74, 0.2, is_outline=True))
    mask = HeadPart("mask", [ellipse(reach * 0.7, 0.1, reach * 0.5, 0.5)], feather=0.14)
    patch = HeadPart("patch", [ellipse(0.16, -0.32, 0.42, 0.4)], feather=0.06)
    return [
        *parts,
        patch,
        mask,
        HeadPart("muzzle", [muzzle], 102, 0.12, feather=0.07),
        *eye,
        HeadPart("nose", [nose], relief=0.04, is_outline=True),
        HeadPart("line", mouth),
        near,
        *inner,
    ]
