"""The moving picture of the README, made from the shipped weights through the live engine.

    python -m everscene_engine.training.showcase --out docs/assets/pocket.gif

Also writes a still sheet beside it (a row for each prompt). Nothing is chosen by hand: seed and prompts stand here.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from everscene_engine.load import load

STORY = (
    ("a red fox trots along the harbour by day, clear sky", 5),
    ("a red fox trots along the harbour by day, storm", 5),
    ("a red fox trots along the harbour at night, clear sky", 3),
    ("a red fox trots along the harbour at night, clear sky, fireworks", 4),
    ("a red fox trots along the harbour at dusk, clear sky", 4),
    ("a red fox trots along the harbour at dawn, snow", 4),
)
"""Prompts and how many chunks each lasts."""
CAPTION = 18  # pixels below the picture


def make_story(seed: int, steps: int | None) -> tuple[list[Image.Image], list[Image.Image]]:
    """All frames with their prompt below, and the last frame of each prompt."""
    engine = load("pocket", seed=seed, steps=steps)
    frames: list[Image.Image] = []
    stills: list[Image.Image] = []
    for prompt, chunks in STORY:
        engine.steer(prompt, "recache")
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
    ImageDraw.Draw(whole).text((4, picture.height + 3), prompt.removeprefix("a red fox trots along the harbour "))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    frames, stills = make_story(options.seed, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    halved = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames[::2]]  # 8 a second: half the size
    halved[0].save(options.out, save_all=True, append_images=halved[1:], duration=125, loop=0, optimize=True)
    sheet = Image.new("RGB", (stills[0].width * len(stills), stills[0].height))
    for column, still in enumerate(stills):
        sheet.paste(still, (column * still.width, 0))
    sheet.save(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
