"""Draw the README's picture: `python -m docs.picture` writes docs/pets.png."""

from PIL import Image

from data.synthetic_pets.picture import draw
from pets import Segmenter

PETS = 14, 28, 29  # of the drawn test images, three that are cut out well
SIZE = 256, 192


def main() -> None:
    """A row for each pet: the image, the classes over it, and the cut-out."""
    segmenter = Segmenter()
    sheet = Image.new("RGBA", (3 * SIZE[0] + 16, len(PETS) * (SIZE[1] + 8) - 8))
    for row, index in enumerate(PETS):
        found = segmenter.segment(draw("test", index).image, SIZE)
        for column, image in enumerate((found.photograph, found.overlay(), found.cutout())):
            sheet.paste(image, (column * (SIZE[0] + 8), row * (SIZE[1] + 8)))
    sheet.quantize().save("docs/pets.png", optimize=True)  # 256 colours: a fifth of the bytes


if __name__ == "__main__":
    main()
