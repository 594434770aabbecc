"""What the benches share that run a server of their own: how long a large model may take, and when it is warm."""

from everscene_bridge.client import Client

WARM_CHUNKS = 12
"""Three rounds of the four slots that every preset's cache has: in the first kernels are compiled, in the second CUDA
graphs are captured, from the third on all is replayed. Of `pocket` they are six seconds."""
START_S = 600.0
"""A large model compiles and captures before its first frame."""


def wait_until_warm(world: Client) -> None:
    """Return when the chunks in which kernels are compiled and graphs captured are shown."""
    for frame in world.frames(timeout=START_S):
        if frame.chunk >= WARM_CHUNKS:
            return
