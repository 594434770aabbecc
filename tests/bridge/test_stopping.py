"""A server that stops answers everybody first."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.bridge.harness import QUICK, Bare
from tests.bridge.test_commands import wait_for
from tests.bridge.test_going_back import SlowCopies

from everscene_bridge import snapshots
from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.server import Server
from everscene_engine.port import EngineState

StartServer = Callable[..., Server]


@pytest.fixture
def stop() -> Iterator[Callable[[Server], None]]:
    """Stops a server beside the test, from the moment on at which it is closing."""
    threads: list[threading.Thread] = []

    def start(server: Server) -> None:
        threads.append(threading.Thread(target=server.stop))
        threads[-1].start()
        wait_for(lambda: server.control.closing, "it does not stop")

    yield start
    for thread in threads:
        thread.join()


def greeted(server: Server) -> Bare:
    """A client of a server that shows frames."""
    wait_for(lambda: server.stream.timeline.latest > 0, "no frame came")
    bare = Bare(server.endpoint)
    bare.hello()
    return bare


def test_a_command_that_waits_for_the_chunk_in_flight_is_told_that_the_server_stops(
    start_server: StartServer, stop: Callable[[Server], None]
) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.3)), autosave_s=0.0)
    bare = greeted(server)
    bare.send(type="command", id=1, name="rewind", args={"seconds": 1.0})
    wait_for(lambda: bool(server.stream._tasks), "the command does not come")
    stop(server)
    reply = bare.receive()
    assert (reply["id"], reply["ok"], reply["code"]) == (1, False, "closing")
    bare.close()


def test_a_command_to_a_server_that_stops_is_told_so(start_server: StartServer, stop: Callable[[Server], None]) -> None:
    class Clinging(PatternEngine):
        def close(self) -> None:
            assert let_go.wait(10)

    let_go = threading.Event()
    server = start_server(lambda: Clinging(width=64, height=36, times=QUICK), autosave_s=0.0)
    bare = greeted(server)
    stop(server)
    for number, name in enumerate(("pause", "snapshot", "image"), start=1):
        reply = bare.ask(type="command", id=number, name=name, args={"name": "x"})
        assert (reply["id"], reply["ok"], reply["code"]) == (number, False, "closing")
    let_go.set()
    bare.close()


def test_a_snapshot_that_is_being_made_is_written_before_the_server_stops(
    start_server: StartServer, stop: Callable[[Server], None]
) -> None:
    class Slow(PatternEngine):
        def snapshot(self, latent_frame: int) -> EngineState:
            making.set()
            time.sleep(0.3)
            return super().snapshot(latent_frame)

    making = threading.Event()
    server = start_server(lambda: Slow(width=64, height=36, times=QUICK), autosave_s=0.0)
    bare = greeted(server)
    bare.send(type="command", id=1, name="snapshot", args={"name": "last words"})
    assert making.wait(5)
    stop(server)
    assert bare.receive()["ok"]
    assert snapshots.path_of(server.settings.state_folder, "last words").exists()
    bare.close()


def test_an_event_whose_first_frame_is_on_its_way_out_is_applied(
    start_server: StartServer, stop: Callable[[Server], None]
) -> None:
    engine = SlowCopies()
    server = start_server(lambda: engine, autosave_s=0.0)
    bare = greeted(server)
    bare.send(type="event", id=1, name="storm")
    assert engine.copying.wait(5)
    stop(server)
    time.sleep(0.1)  # long enough for a server that does not wait
    engine.let_go.set()
    assert bare.final(1)["state"] == "applied"
    bare.close()


def test_a_command_while_the_engine_is_made_anew_is_told_to_try_again(start_server: StartServer) -> None:
    class Broken(PatternEngine):
        def restore(self, state: EngineState) -> None:
            raise RuntimeError("out of memory")

    server = start_server(lambda: Broken(width=64, height=36, times=QUICK), autosave_s=0.0)
    bare = greeted(server)
    assert bare.ask(type="command", id=1, name="branch")["code"] == "engine"
    reply = bare.ask(type="command", id=2, name="rewind", args={"seconds": 1.0})
    assert reply["code"] == "not_now" and "out of memory" in reply["reason"]
    bare.close()
