"""The command line. It reads options and prints."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from everscene_bridge import protocol
from everscene_bridge.cli_bench import bench_app, recache_depth_of
from everscene_bridge.cli_common import (
    DEFAULT_ENDPOINT,
    Device,
    Endpoint,
    Gpus,
    Model,
    SceneOption,
    Seed,
    Steps,
    Threads,
    Token,
    console,
    give_up,
)
from everscene_bridge.cli_doctor import doctor
from everscene_bridge.cli_feed import feed_app
from everscene_bridge.cli_models import models_app
from everscene_bridge.cli_quantize import quantize
from everscene_bridge.cli_record import record
from everscene_bridge.cli_scene import scene_app
from everscene_bridge.cli_show import show
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import ClientError, EversceneError, SettingsError
from everscene_bridge.feed import DEMO_FEED
from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import TRANSITIONS, Transition, When
from everscene_bridge.replay import replay as replay_run
from everscene_bridge.scene import DEFAULT_SCENE
from everscene_bridge.settings import TOKEN_VARIABLE, ServeSettings, token_from_environment
from everscene_bridge.sidecar import SidecarOptions, run
from everscene_bridge.timeline import TimelineSettings
from everscene_engine.errors import EngineError

HELP = "A live, generated world that events bend while it plays. `everscene demo` shows one, `serve` runs one."
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

Weights = Annotated[Path | None, typer.Option(help="Folder of weights; where `models pull` writes by default.")]
StartImage = Annotated[Path | None, typer.Option(help="A picture that the world begins with.")]
Decoder = Annotated[str | None, typer.Option(help="Of a large model: vae, lightvae, lightvae2 or tiny.")]
DecoderDevice = Annotated[str | None, typer.Option(help="Device of a large model's decoder; the model's by default.")]
TextDevice = Annotated[str | None, typer.Option(help="Device of a large model's text encoder; the model's by default.")]
UnloadText = Annotated[bool, typer.Option("--unload-text", help="Let go of the text encoder after each prompt.")]
Precision = Annotated[str, typer.Option(help="Of the linears: auto, bf16, fp8, nvfp4 or w4a4.")]
KV = Annotated[str, typer.Option("--kv", help="Of the KV cache: auto, bf16, nvfp4 or nvfp4-smooth.")]
PathOption = Annotated[str, typer.Option(help="fast, plain: the definition; auto: fast on a GPU.")]
Attention = Annotated[str, typer.Option(help="Self-attention: bf16, or fp8: quicker on a GPU, less exact.")]
Host = Annotated[str, typer.Option(help="Address to listen on. Any but this machine's own needs a token.")]
ServerToken = Annotated[str | None, typer.Option(help=f"Clients must have it; {TOKEN_VARIABLE} by default.")]
ControlPort = Annotated[int, typer.Option(min=0, max=65535, help="Of the control socket; 0: any that is free.")]
FramesPort = Annotated[int, typer.Option(min=0, max=65535, help="Of the frames socket; 0: any that is free.")]
ViewerPort = Annotated[int, typer.Option(min=0, max=65535, help="Of the viewer; 0: any that is free.")]
RingDir = Annotated[Path | None, typer.Option(help="Folder for the frame ring; /dev/shm by default where it is.")]
RingSlots = Annotated[int, typer.Option(help="Frames that the ring holds: more for readers that must miss none.")]
Interrupt = Annotated[bool, typer.Option(help="Events break into the chunk in flight, or wait for it.")]
MaxLead = Annotated[float | None, typer.Option(min=0, help="Milliseconds of content generated ahead at most.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning, error.")]
StateDir = Annotated[Path | None, typer.Option(help="Folder for snapshots; this user's state folder by default.")]
SnapshotName = Annotated[str, typer.Argument(help="Name of the snapshot.")]
FutureSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Of the future that follows.")]
OscPort = Annotated[int | None, typer.Option(min=0, max=65535, help="Listen for OSC on this UDP port; 0: any free.")]
OscHost = Annotated[str, typer.Option(help="Address to listen for OSC on. OSC knows no password.")]


@app.command()
def serve(
    model: Model = "pocket",
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    weights: Weights = None,
    start_image: StartImage = None,
    decoder: Decoder = None,
    text_device: TextDevice = None,
    unload_text: UnloadText = False,
    precision: Precision = "auto",
    kv: KV = "auto",
    attention: Attention = "bf16",
    path: PathOption = "auto",
    gpus: Gpus = 1,
    decoder_device: DecoderDevice = None,
    scene: SceneOption = DEFAULT_SCENE,
    host: Host = protocol.LOOPBACK,
    token: ServerToken = None,
    control_port: ControlPort = protocol.CONTROL_PORT,
    frames_port: FramesPort = protocol.FRAMES_PORT,
    viewer_port: ViewerPort = protocol.VIEWER_PORT,
    viewer: Annotated[bool, typer.Option(help="Serve the page that shows and steers the stream.")] = True,
    ring_dir: RingDir = None,
    ring_slots: RingSlots = 8,
    interrupt: Interrupt = True,
    max_lead_ms: MaxLead = None,
    recache_depth: Annotated[
        str, typer.Option(help="Chunks made anew at once for a new prompt: all, last, N, or the model's own.")
    ] = "own",
    feed: Annotated[Path | None, typer.Option(help="Events to play until another client sends one.")] = None,
    osc_port: OscPort = None,
    osc_host: OscHost = protocol.LOOPBACK,
    log: Annotated[Path | None, typer.Option(help="Write down the run for `everscene replay`.")] = None,
    state_dir: StateDir = None,
    restore: Annotated[
        str | None, typer.Option(help="Name of the snapshot to start from; last: the newest automatic one.")
    ] = None,
    autosave_s: Annotated[float, typer.Option(help="Seconds between automatic snapshots; 0: none.")] = 10.0,
    log_level: LogLevel = "warning",
) -> None:
    """Run a world that clients show and steer, until Ctrl-C."""
    _start_logging(log_level)
    try:
        settings = ServeSettings(
            host=host,
            control_port=control_port,
            frames_port=frames_port,
            token=token or token_from_environment(),
            ring_dir=ring_dir,
            ring_slots=ring_slots,
            state_dir=state_dir,
            restore=restore,
            autosave_s=autosave_s,
            timeline=TimelineSettings(interrupt=interrupt, max_lead_ms=max_lead_ms),
        )
        options = SidecarOptions(
            engine=EngineChoice(
                model=model,
                seed=seed,
                steps=steps,
                device=device,
                threads=threads,
                weights=weights,
                start_image=start_image,
                decoder=decoder,
                text_device=text_device,
                unload_text=unload_text,
                recache_depth=recache_depth_of(recache_depth),
                precision=precision,
                kv=kv,
                attention=attention,
                path=path,
                gpus=gpus,
                decoder_device=decoder_device,
            ),
            serve=settings,
            scene=scene,
            viewer_port=viewer_port if viewer else None,
            feed=feed,
            log=log,
            osc=None if osc_port is None else (osc_host, osc_port),
        )
        run(options, console)
    except (EversceneError, EngineError) as problem:
        give_up(problem)


@app.command()
def demo(
    model: Model = "pocket",
    threads: Threads = None,
    control_port: ControlPort = protocol.CONTROL_PORT,
    frames_port: FramesPort = protocol.FRAMES_PORT,
    viewer_port: ViewerPort = protocol.VIEWER_PORT,
    browser: Annotated[bool, typer.Option(help="Open the viewer in a browser.")] = True,
    log_level: LogLevel = "warning",
) -> None:
    """Serve, open the viewer, and play a short feed until you touch a control."""
    _start_logging(log_level)
    try:
        options = SidecarOptions(
            engine=EngineChoice(model, threads=threads),
            serve=ServeSettings(control_port=control_port, frames_port=frames_port),
            viewer_port=viewer_port,
            feed=DEMO_FEED,
            open_browser=browser,
        )
        run(options, console)
    except (EversceneError, EngineError) as problem:
        give_up(problem)


@app.command()
def send(
    name: Annotated[str | None, typer.Argument(help="An event of the scene, as storm.")] = None,
    params: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Its params, as intensity=0.8.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A whole prompt, in place of an event.")] = None,
    slot: Annotated[
        list[str] | None, typer.Option(metavar="NAME=WORDS", help="Words for a slot instead, as time='at night'.")
    ] = None,
    transition: Annotated[str | None, typer.Option(help="Not for an event: recache, text, blend, cut, reset.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Of a blend.")] = None,
    when: Annotated[str | None, typer.Option(help="now or chunk.")] = None,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the last receipt.")] = 30.0,
) -> None:
    """Send one event, prompt or set of slots and print its receipts."""
    if [name is None, prompt is None, not slot].count(False) != 1:
        give_up(SettingsError("give either the name of an event, or --prompt, or --slot"))
    if name is not None and (transition is not None or seconds is not None):
        give_up(SettingsError("--transition and --seconds are not for an event: how it comes, the scene says"))
    if seconds is not None and transition != "blend":
        give_up(SettingsError("--seconds belongs to --transition blend"))
    try:
        how, moment = _transition(transition), _when(when)
        with Client(endpoint, token, name="everscene send") as world:
            if prompt is not None:
                receipt = world.prompt(prompt, how, moment, seconds=seconds)
            elif slot:
                receipt = world.slots(dict(map(_slot, slot)), how, moment, seconds=seconds)
            else:
                receipt = world.send_event(str(name), dict(map(_param, params or [])), moment)
            accepted = receipt.wait("accepted", timeout)
            console.print(f"accepted, order {accepted.order}")
            applied = receipt.wait("applied", timeout)
            console.print(
                f"applied from frame {applied.frame} (chunk {applied.chunk}) after {applied.latency_ms:.0f} ms: "
                f"{applied.prompt}",
                markup=False,
                soft_wrap=True,
            )
    except EversceneError as problem:
        give_up(problem)


@app.command()
def watch(
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
) -> None:
    """Print what is shown, once a second."""
    try:
        with Client(endpoint, token, name="everscene watch") as world:
            end = None if seconds is None else time.monotonic() + seconds
            while end is None or time.monotonic() < end:
                time.sleep(1.0)
                _print_line(world)
    except KeyboardInterrupt:
        return
    except EversceneError as problem:
        give_up(problem)


def _print_line(world: Client) -> None:
    try:
        stats = world.stats()
    except ClientError as problem:
        console.print(str(problem), markup=False)
        return
    latency = stats.latency_ms
    console.print(
        f"frame {stats.frame}  {stats.fps:.1f} of {stats.content_fps:g} fps  {stats.state}  "
        f"latency p50 {latency.p50:.0f} p95 {latency.p95:.0f} ms ({latency.n})  {stats.prompt}",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def snapshot(name: SnapshotName, endpoint: Endpoint = DEFAULT_ENDPOINT, token: Token = None) -> None:
    """Keep the world as it is on the screen, under a name."""
    with _world(endpoint, token, "snapshot") as world:
        console.print(f"{name}: {world.snapshot(name) / 1e6:.2f} MB")


@app.command("restore")
def restore_snapshot(
    name: SnapshotName, seed: FutureSeed = None, endpoint: Endpoint = DEFAULT_ENDPOINT, token: Token = None
) -> None:
    """Go on from a snapshot."""
    with _world(endpoint, token, "restore") as world:
        world.restore(name, seed)
        console.print(f"the world goes on from {name}")


@app.command()
def image(
    picture: Annotated[
        Path | None, typer.Argument(help="PNG, JPEG or WebP; without one, worlds begin without a picture again.")
    ] = None,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
) -> None:
    """Let worlds begin with a picture; `everscene send --prompt … --transition reset` begins one."""
    with _world(endpoint, token, "image") as world:
        try:
            world.image(picture)
        except OSError as problem:
            give_up(SettingsError(f"the picture {picture} cannot be read: {problem.strerror}"))
        console.print(f"worlds begin with {picture or 'noise'} from now on", markup=False)


@app.command()
def rewind(
    seconds: Annotated[float, typer.Argument(min=0, help="Seconds of content.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
) -> None:
    """Go back in the world's own time, as far as the engine remembers."""
    with _world(endpoint, token, "rewind") as world:
        console.print(f"went back by {world.rewind(seconds):.2f} s")


@app.command()
def branch(seed: FutureSeed = None, endpoint: Endpoint = DEFAULT_ENDPOINT, token: Token = None) -> None:
    """Go on from the picture on the screen into another future."""
    with _world(endpoint, token, "branch") as world:
        console.print(f"the world goes on under seed {world.branch(seed)}")


@app.command()
def replay(log: Annotated[Path, typer.Argument(help="What `everscene serve --log` wrote.")]) -> None:
    """Do a logged run again and compare every frame."""
    try:
        result = replay_run(log, lambda choice: loader(choice)())
    except (EversceneError, EngineError) as problem:
        give_up(problem)
    for difference in result.other_build:
        console.print(f"another build: {difference}", markup=False)
    if result.first_difference is not None:
        console.print(f"frame {result.first_difference} is the first that differs, after {result.frames - 1} the same")
        raise typer.Exit(1)
    console.print(f"{result.frames} frames, all the same")


@app.command()
def pause(endpoint: Endpoint = DEFAULT_ENDPOINT, token: Token = None) -> None:
    """Let the picture stand until `everscene resume`."""
    with _world(endpoint, token, "pause") as world:
        world.pause()


@app.command()
def resume(endpoint: Endpoint = DEFAULT_ENDPOINT, token: Token = None) -> None:
    """Go on after `everscene pause`."""
    with _world(endpoint, token, "resume") as world:
        world.resume()


@contextmanager
def _world(endpoint: str, token: str | None, command: str) -> Iterator[Client]:
    """A client; what goes wrong with it ends the program with a sentence."""
    try:
        with Client(endpoint, token, name=f"everscene {command}", inline="jpeg") as world:
            yield world
    except EversceneError as problem:
        give_up(problem)


def _transition(text: str | None) -> Transition | None:
    if text is None:
        return None
    for known in TRANSITIONS:
        if text == known:
            return known
    raise SettingsError(f"--transition is {text!r}; it is one of {', '.join(TRANSITIONS)}")


def _when(text: str | None) -> When | None:
    if text is None:
        return None
    if text == "now":
        return "now"
    if text == "chunk":
        return "chunk"
    raise SettingsError(f"--when is {text!r}; it is now or chunk")


def _slot(pair: str) -> tuple[str, str]:
    """`name=words`."""
    name, separator, words = pair.partition("=")
    if not separator or not name:
        raise SettingsError(f"{pair!r} is not NAME=WORDS")
    return name, words


def _param(pair: str) -> tuple[str, ParamValue]:
    """`key=value`: true and false are flags, what reads as a number is one, all else is text."""
    key, separator, text = pair.partition("=")
    if not separator or not key:
        raise SettingsError(f"{pair!r} is not KEY=VALUE")
    if text in ("true", "false"):
        return key, text == "true"
    for kind in (int, float):
        try:
            return key, kind(text)
        except ValueError:
            continue
    return key, text


def _start_logging(level: str) -> None:
    names = {"debug", "info", "warning", "error"}
    if level not in names:
        give_up(SettingsError(f"--log-level is {level!r}; it is one of {', '.join(sorted(names))}"))
    errors = Console(stderr=True)
    if errors.is_terminal:
        handler = RichHandler(console=errors, show_path=False)
        logging.basicConfig(level=level.upper(), format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:  # a file or a journal: one line for each message
        logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s")


app.command()(record)
app.command()(show)
app.command()(quantize)
app.command()(doctor)
app.add_typer(feed_app, name="feed")
app.add_typer(scene_app, name="scene")
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Entry point of the `everscene` command."""
    app()
