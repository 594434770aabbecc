"""Which chunk lies in which slot of the KV cache: bookkeeping in integers, no tensors.

The cache has a fixed number of slots of one chunk each. A chunk in work takes a free slot; when none is free, the
oldest chunk that is not pinned leaves and its slot is used again, so nothing in memory ever moves (keys carry their
position, and the order of keys is nothing to attention). Pinned chunks are the sinks.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from everscene_engine.errors import ConfigError


@dataclass(frozen=True)
class Resident:
    """A chunk that lies in a slot. frames: its latent frames (fewer than a whole chunk after a rollback). offset:
    latent frames that RoPE adds to its place in time (it jumps ahead at every cut)."""

    slot: int
    chunk: int
    first_frame: int
    frames: int
    pinned: bool = False
    offset: int = 0

    @property
    def end_frame(self) -> int:
        return self.first_frame + self.frames

    @property
    def position(self) -> int:
        """Where RoPE puts its first latent frame."""
        return self.first_frame + self.offset


class SlotTable:
    """The residents of the cache in the order of their chunks. All indices are plain integers."""

    def __init__(self, slots: int) -> None:
        if slots < 2:
            raise ConfigError(f"slots is {slots}; a cache needs at least 2")
        self.slots = slots
        self._residents: list[Resident] = []

    @property
    def residents(self) -> tuple[Resident, ...]:
        return tuple(self._residents)

    @property
    def pinned(self) -> tuple[Resident, ...]:
        """The sinks, oldest first."""
        return tuple(resident for resident in self._residents if resident.pinned)

    @property
    def window(self) -> tuple[Resident, ...]:
        """The residents that may leave, oldest first."""
        return tuple(resident for resident in self._residents if not resident.pinned)

    def open(self, chunk: int, first_frame: int, frames: int, offset: int = 0) -> Resident:
        """Give a new chunk a slot: the lowest free one, else that of the oldest chunk that is not pinned."""
        taken = {resident.slot for resident in self._residents}
        free = [slot for slot in range(self.slots) if slot not in taken]
        if not free:
            oldest = next(resident for resident in self._residents if not resident.pinned)
            self._residents.remove(oldest)
            free = [oldest.slot]
        resident = Resident(free[0], chunk, first_frame, frames, offset=offset)
        self._residents.append(resident)
        self._residents.sort(key=lambda one: one.chunk)  # a chunk that is made anew may be older than others
        return resident

    def drop(self, resident: Resident) -> None:
        """Free the slot of a chunk."""
        self._residents.remove(resident)

    def pin(self, resident: Resident) -> Resident:
        """Keep a chunk for good (until it is unpinned): a sink."""
        return self._swap(resident, replace(resident, pinned=True))

    def unpin(self, resident: Resident) -> Resident:
        """Let a chunk leave when it is the oldest."""
        return self._swap(resident, replace(resident, pinned=False))

    def clear_window(self, but: Collection[Resident] = ()) -> None:
        """Free the slots of every chunk that is not pinned, but for these."""
        self._residents = [resident for resident in self._residents if resident.pinned or resident in but]

    def clear(self) -> None:
        """Free every slot."""
        self._residents = []

    def _swap(self, old: Resident, new: Resident) -> Resident:
        self._residents[self._residents.index(old)] = new
        return new
