"""How long to wait before a failed engine is made anew: longer each time, until it has been steady for a while."""

FIRST_S = 0.5
LONGEST_S = 30.0
STEADY_CHUNKS = 16
"""After so many chunks without a failure the next one is treated as the first."""


class BackOff:
    """Not thread-safe."""

    def __init__(self) -> None:
        self.seconds = FIRST_S  # to wait before the next try
        self._good_chunks = 0

    def failed(self) -> None:
        """The engine failed: what it did well before does not count any more."""
        self._good_chunks = 0

    def tried(self) -> None:
        """The wait is over and the engine is made anew; should that fail, the next wait is longer."""
        self.seconds = min(self.seconds * 2, LONGEST_S)

    def made_a_chunk(self) -> None:
        """The engine made a chunk."""
        self._good_chunks += 1
        if self._good_chunks == STEADY_CHUNKS:
            self.seconds = FIRST_S
