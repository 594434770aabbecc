"""Make the README's picture: frames of the pocket model as the C# core hands them to Unity.

python -m tests.clients.unity.picture OUT.png [EVENT …]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings

from .runtimes import build_checks, find_runtimes
from .session import Session

SETTLE_FRAMES = 24
GAP = 6


def take(session: Session, folder: Path) -> Image.Image:
    """The next frame."""
    path = folder / "frame.rgba"
    session.do(f"save {path}")
    saved = session.expect("saved", timeout=60)
    print(saved["number"], saved["prompt"])
    return Image.frombytes("RGBA", (saved["width"], saved["height"]), path.read_bytes()).convert("RGB")


def main(out: Path, events: list[str]) -> None:
    """One picture before the first event, and one some frames after each."""
    load = loader(EngineChoice("pocket"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build_checks(folder / "build")
        settings = ServeSettings(control_port=0, frames_port=0, ring_dir=folder)
        with Server(load(), load, load_scene(), settings) as server:
            session = Session(find_runtimes()[0], str(program), server.endpoint)
            with session:
                session.frames(SETTLE_FRAMES, timeout=60)
                pictures = [take(session, folder)]
                for event in events:
                    session.do(f"event {event}")
                    session.expect("receipt", state="Applied", name=event.split()[0], timeout=60)
                    session.frames(SETTLE_FRAMES, timeout=60)
                    pictures.append(take(session, folder))
    width, height = pictures[0].size
    strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * (width + GAP), 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    strip.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["storm intensity=0.9", "calm", "night"])
