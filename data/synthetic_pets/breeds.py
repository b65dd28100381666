"""The eight invented breeds: what each looks like, apart from where and how it is seen."""

from dataclasses import dataclass
from typing import Literal

from data.synthetic_pets.drawing import Colour

Species = Literal["Cat", "Dog"]
Ears = Literal["pointed", "pricked", "folded", "floppy"]
Pattern = Literal["plain", "tabby", "spotted", "points", "patches", "saddle"]

CREAM: Colour = (222, 203, 170)
WHITE: Colour = (230, 226, 218)
GINGER: Colour = (188, 120, 62)
TAN: Colour = (164, 122, 78)
GOLD: Colour = (203, 162, 104)
BROWN: Colour = (104, 72, 48)
CHOCOLATE: Colour = (70, 48, 38)
GREY: Colour = (132, 130, 130)
SLATE: Colour = (84, 88, 96)
BLACK: Colour = (40, 36, 36)
COAT_COLOURS = (CREAM, WHITE, GINGER, TAN, GOLD, BROWN, CHOCOLATE, GREY, SLATE, BLACK)

YELLOW_EYE: Colour = (204, 172, 62)
GREEN_EYE: Colour = (150, 170, 82)
BLUE_EYE: Colour = (112, 158, 208)
BROWN_EYE: Colour = (66, 40, 24)


@dataclass(frozen=True)
class Breed:
    """One breed.

    Attributes:
        name: as in the file names and the label.
        species: Cat or Dog.
        ears: their shape.
        pattern: how the two coat colours are laid out.
        colours: pairs of (ground, markings), one of which each animal gets.
        eyes: iris colours.
        pale: how much white there is on muzzle, chest and paws, 0 to 1 (a probability).
        fur: length of the fur at the outline, in hundredths of the body's height.
        head: size of the head against the species' usual one.
        legs: length of the legs against the species' usual one.
        muzzle: length of the muzzle against the species' usual one.
    """

    name: str
    species: Species
    ears: Ears
    pattern: Pattern
    colours: tuple[tuple[Colour, Colour], ...]
    eyes: tuple[Colour, ...]
    pale: float
    fur: float
    head: float = 1.0
    legs: float = 1.0
    muzzle: float = 1.0


# Cats and dogs take turns, so that the first few pictures already hold both.
BREEDS = (
    Breed(
        "tabby_cat",
        "Cat",
        "pointed",
        "tabby",
        ((TAN, CHOCOLATE), (GREY, BLACK), (GINGER, (140, 74, 34)), (CREAM, TAN)),
        (GREEN_EYE, YELLOW_EYE),
        pale=0.6,
        fur=1.0,
    ),
    Breed(
        "patched_terrier",
        "Dog",
        "folded",
        "patches",
        ((WHITE, BROWN), (WHITE, BLACK), (WHITE, GINGER), (CREAM, CHOCOLATE)),
        (BROWN_EYE,),
        pale=1.0,
        fur=0.9,
        legs=0.9,
        muzzle=0.85,
    ),
    Breed(
        "pointed_cat",
        "Cat",
        "pointed",
        "points",
        ((CREAM, CHOCOLATE), (WHITE, SLATE), (CREAM, GINGER)),
        (BLUE_EYE,),
        pale=0.0,
        fur=0.7,
        head=0.94,
        legs=1.1,
    ),
    Breed(
        "pricked_shepherd",
        "Dog",
        "pricked",
        "saddle",
        ((TAN, BLACK), (GOLD, CHOCOLATE), (GREY, BLACK), (CREAM, SLATE)),
        (BROWN_EYE,),
        pale=0.2,
        fur=1.6,
        legs=1.1,
        muzzle=1.15,
    ),
    Breed(
        "longhaired_cat",
        "Cat",
        "pointed",
        "plain",
        ((GREY, SLATE), (WHITE, CREAM), (BLACK, CHOCOLATE), (GINGER, GOLD), (CREAM, TAN)),
        (YELLOW_EYE, GREEN_EYE, BLUE_EYE),
        pale=0.25,
        fur=2.6,
        head=1.08,
        legs=0.85,
    ),
    Breed(
        "plain_retriever",
        "Dog",
        "floppy",
        "plain",
        ((GOLD, TAN), (CREAM, GOLD), (CHOCOLATE, BROWN), (BLACK, SLATE)),
        (BROWN_EYE,),
        pale=0.15,
        fur=2.0,
        head=1.05,
    ),
    Breed(
        "spotted_cat",
        "Cat",
        "pointed",
        "spotted",
        ((GOLD, CHOCOLATE), (GREY, BLACK), (TAN, BLACK), (CREAM, BROWN)),
        (GREEN_EYE, YELLOW_EYE),
        pale=0.4,
        fur=0.7,
        head=0.96,
        legs=1.08,
    ),
    Breed(
        "tricolour_hound",
        "Dog",
        "floppy",
        "saddle",
        ((TAN, BLACK), (GINGER, CHOCOLATE), (WHITE, BROWN)),
        (BROWN_EYE,),
        pale=0.85,
        fur=0.8,
        head=0.95,
    ),
)
