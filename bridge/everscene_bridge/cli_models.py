"""`everscene models`: list the models, fetch their weights, convert files of one's own, check what is there.

Nothing here loads torch before a command that needs it runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everscene_bridge.cli_common import Home, PresetName, console, give_up, say
from everscene_engine.errors import EngineError
from everscene_engine.models.packages import check_packages
from everscene_engine.models.presets import HOME, PRESETS, preset

if TYPE_CHECKING:
    from everscene_engine.models.presets import Preset, Source

models_app = typer.Typer(no_args_is_help=True, help="The models and their weights.")


@models_app.command("list")
def list_models(home: Home = HOME) -> None:
    """Print the models, their licences, and what of them is on this machine."""
    from everscene_engine.models.verify import parts_in

    for known in PRESETS:
        console.print(f"[bold]{known.name}[/]  {known.about}", soft_wrap=True)
        if known.shipped:
            continue
        found, missing = parts_in(known, home / known.name)
        for licence in dict.fromkeys(source.licence for source in known.sources):
            parts = ", ".join(source.part for source in known.sources if source.licence == licence)
            say(f"    {licence}: {parts}")
        say(f"    here: {', '.join(found) or 'nothing'}" + (f"; lacks {', '.join(missing)}" if missing else ""))


@models_app.command()
def pull(
    model: PresetName,
    steps: Annotated[int | None, typer.Option(min=1, help="Fetch the weights made for so many steps.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="Fetch an optional part too, as lightvae2.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about the licences.")] = False,
    home: Home = HOME,
) -> None:
    """Fetch a model's published weights from Hugging Face and convert them. A broken download goes on where it was."""
    from everscene_engine.models.pull import HuggingFace, chosen_sources
    from everscene_engine.models.pull import pull as pull_sources

    try:
        chosen = _large(model)
        sources = chosen_sources(chosen, steps, tuple(extra or ()))
        for source in sources:
            say(f"{source.part:18} {source.repo}/{source.path}  ({source.licence})")
        if not yes and not typer.confirm("Do you accept these licences?"):
            raise typer.Exit(1)
        for done in pull_sources(chosen, sources, home / chosen.name, HuggingFace(), _announce):
            say(f"{done.part} is there, of commit {done.commit}" + (f"; {done.note}" if done.note else ""))
    except (EngineError, OSError) as problem:
        give_up(problem)


@models_app.command()
def convert(
    model: PresetName,
    source: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file, or a folder.")],
    part: Annotated[str, typer.Option(help="transformer-4step, text, tokenizer, vae, lightvae, lightvae2 or tiny.")],
    onto: Annotated[Path | None, typer.Option(help="The base that low-rank weights are added to.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Strength times rank; their rank by default.")] = None,
    ema: Annotated[bool, typer.Option(help="Take the averaged weights where the file has them.")] = False,
    home: Home = HOME,
) -> None:
    """Convert a file that you have into a part of a model."""
    from everscene_engine.models.convert import convert as convert_part

    try:
        for path in convert_part(_large(model), part, source, home / model, onto, lora_alpha, ema):
            say(str(path))
    except (EngineError, OSError) as problem:
        give_up(problem)


@models_app.command()
def verify(
    model: PresetName,
    deep: Annotated[bool, typer.Option(help="Read every tensor, not the headers alone.")] = False,
    home: Home = HOME,
) -> None:
    """Check a model's weights; name the first tensor that is missing, extra, misshapen or damaged."""
    from everscene_engine.models.verify import verify as verify_all

    try:
        chosen = preset(model)
        if not chosen.shipped:
            check_packages()
        counts = verify_all(chosen, home / model, deep)
        if not counts:
            _large(model)
        for part, count in counts.items():
            say(f"{part:18} {count} tensors, as they should be")
    except EngineError as problem:
        give_up(problem)


@models_app.command()
def encode(
    model: PresetName,
    scene: Annotated[Path, typer.Option(help="Scene file.")],
    device: Annotated[str | None, typer.Option(help="Of the text encoder; a GPU by default if there is one.")] = None,
    cut: Annotated[bool, typer.Option(help="Encode each prompt as the first of a shot too.")] = True,
    home: Home = HOME,
) -> None:
    """Encode every prompt that a scene can make and keep them, so that no event waits for the text encoder."""
    from everscene_bridge.errors import SceneError
    from everscene_bridge.scene import load_scene
    from everscene_bridge.scene_prompts import possible_prompts
    from everscene_engine.models.large import encode_ahead

    try:
        chosen = _large(model)
        prompts = possible_prompts(load_scene(scene))
        new = encode_ahead(home / chosen.name, prompts, device, cut)
        say(f"{len(prompts)} prompts; {new} embeddings are new")
    except (EngineError, SceneError) as problem:
        give_up(problem)


def _large(name: str) -> "Preset":
    found = preset(name)
    if found.shipped:
        say(f"{name} comes with the package; there is nothing to do")
        raise typer.Exit(0)
    check_packages()
    return found


def _announce(source: "Source") -> None:
    say(f"{source.part}: fetching {source.path} of {source.repo}")
