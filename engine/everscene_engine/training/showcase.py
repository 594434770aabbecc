"""The moving picture of the README, made from the shipped weights through the live engine.

    python -m everscene_engine.training.showcase --out docs/assets/pocket.gif

Also writes a still sheet beside it (a tile for each prompt). Prompts and seed stand here, the seed chosen by looking at
1 to 10; of what they give nothing is left out but every second frame.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from everscene_engine.load import load
from everscene_engine.stream import Transition

STORY: tuple[tuple[str, Transition, int], ...] = (
    ("a red fox trots along the harbour by day, clear sky", "recache", 4),
    ("a red fox trots along the harbour by day, storm", "recache", 4),
    ("a red fox trots along the harbour at night, clear sky", "recache", 3),
    ("a red fox trots along the harbour at night, fireworks", "recache", 4),
    ("a purple balloon drifts over the city at night, clear sky", "cut", 3),
    ("a purple balloon drifts over the city at dusk, clear sky", "recache", 3),
    ("a purple balloon drifts over the city at dawn, snow", "recache", 3),
    ("a blue robot walks through the forest at dusk, clear sky", "cut", 4),
    ("a blue fox trots along the mountains by day, snow", "cut", 4),
)
"""Prompts, how the world goes over to each, and how many chunks it lasts. Training never showed a blue fox."""
COLUMNS = 3  # of the sheet
CAPTION = 18  # pixels below the picture


def make_story(seed: int, steps: int | None) -> tuple[list[Image.Image], list[Image.Image]]:
    """All frames with their prompt below, and the last frame of each prompt."""
    engine = load("pocket", seed=seed, steps=steps)
    frames: list[Image.Image] = []
    stills: list[Image.Image] = []
    for prompt, transition, chunks in STORY:
        engine.steer(prompt, transition)
        for _ in range(chunks):
            chunk = engine.generate()
            assert chunk is not None
            pixels = engine.decode(chunk).on_host(engine.info.height, engine.info.width)
            frames += [captioned(picture, prompt) for picture in pixels]
        stills.append(frames[-1])
    return frames, stills


def captioned(pixels: np.ndarray, prompt: str) -> Image.Image:
    """A frame [H, W, 4] with its prompt in a strip below it."""
    picture = Image.fromarray(pixels[..., :3])
    whole = Image.new("RGB", (picture.width, picture.height + CAPTION), (18, 20, 24))
    whole.paste(picture, (0, 0))
    ImageDraw.Draw(whole).text((4, picture.height + 3), prompt)
    return whole


def in_few_colours(frame: Image.Image) -> Image.Image:
    """As a GIF holds it; the colours are spread so that a small subject keeps its own."""
    return frame.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    frames, stills = make_story(options.seed, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    halved = [in_few_colours(frame) for frame in frames[::2]]  # 8 a second: half the size
    halved[0].save(options.out, save_all=True, append_images=halved[1:], duration=125, loop=0, optimize=True)
    width, height = stills[0].size
    sheet = Image.new("RGB", (width * COLUMNS, height * -(-len(stills) // COLUMNS)))
    for number, still in enumerate(stills):
        row, column = divmod(number, COLUMNS)
        sheet.paste(still, (column * width, row * height))
    sheet.save(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
