"""A page of scenes with their captions, for people to look at."""

import textwrap

from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.scenes.captions import describe
from orchestrator.data.scenes.render import render_image
from orchestrator.data.scenes.sample import random_stream, sample_scene

_COLUMNS, _ROWS = 8, 4
_IMAGE_SIZE, _ENLARGE = 64, 2
_MARGIN, _TEXT_LINES, _LINE_HEIGHT, _LINE_CHARACTERS = 8, 5, 12, 24
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def write_contact_sheet(dest_png: str, seed: int) -> None:
    """Write the first 32 training scenes of ``seed`` as an 8 x 4 sheet in PNG, captions underneath."""
    side = _IMAGE_SIZE * _ENLARGE
    cell_width, cell_height = side + _MARGIN, side + _MARGIN + _TEXT_LINES * _LINE_HEIGHT
    sheet = Image.new("RGB", (_COLUMNS * cell_width + _MARGIN, _ROWS * cell_height + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for index in range(_COLUMNS * _ROWS):
        row, column = divmod(index, _COLUMNS)
        left, top = _MARGIN + column * cell_width, _MARGIN + row * cell_height
        scene = sample_scene(seed, "train", index)
        image = Image.fromarray(render_image(scene, _IMAGE_SIZE)).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(image, (left, top))
        caption = describe(scene, random_stream(seed, "train", "caption", index))
        lines = textwrap.wrap(caption, _LINE_CHARACTERS, max_lines=_TEXT_LINES, placeholder=" ...")
        for number, line in enumerate(lines):
            draw.text((left, top + side + 1 + number * _LINE_HEIGHT), line, _INK, font)
    sheet.save(dest_png, optimize=True)
