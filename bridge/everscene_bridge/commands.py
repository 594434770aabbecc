"""What a `command` message can ask for: pause and resume, snapshots, and ways back.

Commands come from the control thread. What touches the engine is done on the engine's thread, between two chunks;
what touches the disk on a thread of its own, so that neither the sockets nor the stream wait for it. The answer goes
out when it is done.
"""

import itertools
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from everscene_bridge import snapshots
from everscene_bridge.errors import CommandFailed, SnapshotUnreadable
from everscene_bridge.live import LiveStream
from everscene_bridge.message_bytes import check_args
from everscene_bridge.messages import Command, Message, Reply
from everscene_bridge.snapshots import Snapshot
from everscene_engine.errors import ConfigError, EngineError, SnapshotError
from everscene_engine.picture import fitted
from everscene_engine.port import EnginePort

log = logging.getLogger(__name__)

Answer = Callable[[Reply], None]
Result = dict[str, Any]
LONGEST_REWIND_S = 3600


def _snapshot_name(name: str) -> str:
    if snapshots.NAME.fullmatch(name) is None:
        raise ValueError(f"must be {snapshots.NAME_RULE}")
    return name


SnapshotName = Annotated[str, AfterValidator(_snapshot_name)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _NoArgs(Message):
    pass


class _Named(Message):
    name: SnapshotName


class _NamedWithSeed(_Named):
    seed: Seed | None = None


class _Seconds(Message):
    seconds: Annotated[float, Field(ge=0, le=LONGEST_REWIND_S)]


class _Seed(Message):
    seed: Seed | None = None


class Commands:
    """Does commands. `take` may be called by one thread."""

    def __init__(self, stream: LiveStream, folder: Path, model: str) -> None:
        """folder: where snapshots lie; made with the first. model: whose automatic ones `last` is one of."""
        self._stream = stream
        self._folder = folder
        self._model = model
        self._automatic = itertools.count()
        self._keeper = ThreadPoolExecutor(1, "everscene-keeper")
        self._all: dict[str, tuple[type[Message], Callable[[Any, Answer, int], None]]] = {
            "pause": (_NoArgs, self._pause),
            "resume": (_NoArgs, self._resume),
            "snapshot": (_Named, self._snapshot),
            "restore": (_NamedWithSeed, self._restore),
            "rewind": (_Seconds, self._rewind),
            "branch": (_Seed, self._branch),
        }  # and `image`, which has a picture

    def close(self) -> None:
        """Finish what is being read and written. The stream has stopped: what comes of it is given up."""
        self._keeper.shutdown(wait=True)

    def keep_automatic(self, snapshot: Snapshot) -> None:
        """Write an automatic snapshot soon, in place of an older one. The engine's thread."""
        self._keeper.submit(self._write_automatic, snapshot, next(self._automatic))

    def _write_automatic(self, snapshot: Snapshot, number: int) -> None:
        path = snapshots.automatic_path(self._folder, self._model, number)
        try:
            snapshots.save(path, snapshot)
        except OSError as problem:
            log.warning("the automatic snapshot could not be written: %s", problem)

    def take(self, command: Command, answer: Answer, picture: bytes | None = None) -> None:
        """Do it; `answer` is called once, now or later, by any thread. picture: what came with it."""
        if command.name == "image":
            self._image(picture, answer, command.id)
            return
        known = self._all.get(command.name)
        if known is None:
            reason = f"no such command: {command.name!r}; there are {', '.join(self._all)}, image"
            answer(_failed(command.id, CommandFailed("unknown_command", reason)))
            return
        try:
            args = check_args(known[0], command.args or {}, command.name)
        except CommandFailed as why:
            answer(_failed(command.id, why))
            return
        known[1](args, answer, command.id)

    # Each command

    def _pause(self, args: _NoArgs, answer: Answer, number: int) -> None:
        with self._stream.changed:
            self._stream.timeline.pause()
            self._stream.changed.notify_all()
        answer(Reply(id=number, ok=True, result={}))

    def _resume(self, args: _NoArgs, answer: Answer, number: int) -> None:
        with self._stream.changed:
            self._stream.timeline.resume()
            self._stream.changed.notify_all()
        answer(Reply(id=number, ok=True, result={}))

    def _snapshot(self, args: _Named, answer: Answer, number: int) -> None:
        if args.name == snapshots.LAST:
            reason = f"the name {args.name!r} stands for the newest automatic snapshot; choose another"
            answer(_failed(number, CommandFailed("out_of_range", reason)))
            return
        path = snapshots.path_of(self._folder, args.name)

        def write(snapshot: Snapshot) -> Result:
            try:
                size = snapshots.save(path, snapshot)
            except OSError as problem:
                raise CommandFailed("storage", f"the snapshot could not be written: {problem}") from None
            return {"name": args.name, "frame": snapshot.moment.frame, "bytes": size}

        def take(engine: EnginePort) -> None:
            self._attempt(number, answer, lambda: self._keep(self._stream.take_snapshot(engine), write, number, answer))

        self._stream.do(take, self._give_up(number, answer))

    def _keep(
        self, snapshot: Snapshot, write: Callable[[Snapshot], Result], number: int, answer: Answer
    ) -> Result | None:
        self._keeper.submit(self._attempt, number, answer, lambda: write(snapshot))
        return None

    def _restore(self, args: _NamedWithSeed, answer: Answer, number: int) -> None:
        def read() -> Result | None:
            snapshot = snapshots.find(self._folder, args.name, self._model)

            def put_back(engine: EnginePort) -> Result:
                seed = self._stream.put_back(engine, snapshot, args.seed)
                return {"name": args.name, "seed": seed}

            self._do(number, answer, put_back)
            return None

        self._keeper.submit(self._attempt, number, answer, read)

    def _rewind(self, args: _Seconds, answer: Answer, number: int) -> None:
        def rewind(engine: EnginePort) -> Result:
            return {"seconds": self._stream.rewind(engine, args.seconds)}

        self._do(number, answer, rewind)

    def _branch(self, args: _Seed, answer: Answer, number: int) -> None:
        seed = secrets.randbelow(2**31) if args.seed is None else args.seed

        def branch(engine: EnginePort) -> Result:
            return {"seed": self._stream.branch(engine, seed)}

        self._do(number, answer, branch)

    def _image(self, picture: bytes | None, answer: Answer, number: int) -> None:
        """Cut and scale it beside the stream, encode it between two chunks."""
        info = self._stream.timeline.info

        def read() -> Result | None:
            try:
                pixels = None if picture is None else fitted(picture, info.width, info.height)
            except ConfigError as why:
                raise CommandFailed("picture", str(why)) from None

            def begin(engine: EnginePort) -> Result:
                try:
                    self._stream.begin_with(engine, pixels)
                except EngineError as why:
                    raise CommandFailed("picture", str(why)) from None
                return {}

            self._do(number, answer, begin)
            return None

        self._keeper.submit(self._attempt, number, answer, read)

    def _do(self, number: int, answer: Answer, act: Callable[[EnginePort], Result]) -> None:
        self._stream.do(
            lambda engine: self._attempt(number, answer, lambda: act(engine)), self._give_up(number, answer)
        )

    def _give_up(self, number: int, answer: Answer) -> Callable[[CommandFailed], None]:
        return lambda why: answer(_failed(number, why))

    def _attempt(self, number: int, answer: Answer, action: Callable[[], Result | None]) -> None:
        """Do it and answer; a result of None means that the answer comes from elsewhere."""
        try:
            result = action()
        except CommandFailed as why:
            answer(_failed(number, why))
        except SnapshotUnreadable as why:
            answer(_failed(number, CommandFailed("no_snapshot", str(why))))
        except SnapshotError as why:
            answer(_failed(number, CommandFailed("other_model", str(why))))
        except ConfigError as why:
            answer(_failed(number, CommandFailed("not_now", str(why))))
        else:
            if result is not None:
                answer(Reply(id=number, ok=True, result=result))


def _failed(number: int, why: CommandFailed) -> Reply:
    return Reply(id=number, ok=False, code=why.code, reason=why.reason)
