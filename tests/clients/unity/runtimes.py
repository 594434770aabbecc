"""The C# side of the tests: compiled by Mono's mcs, run under Mono and under CoreCLR.

`get_runtimes.sh` installs both. $DOTNET may name another `dotnet`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "unity_client"
HERE = Path(__file__).resolve().parent
FRAMEWORK = Path("/usr/lib/mono/4.7.1-api")
"""Reference assemblies of .NET 4.7.1: Mono's own hold types where no other runtime has them."""
MISSING = "no Mono or CoreCLR here: `make test-unity` installs both"

RUNTIME_CONFIG = {
    "runtimeOptions": {
        "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
        "configProperties": {
            "System.Globalization.Invariant": True,  # no ICU needed
            "System.Runtime.TieredCompilation": False,  # its thread allocates 11 kB whenever it comes to recompile
        },
    }
}


@dataclass(frozen=True)
class Runtime:
    """A way to run an assembly that mcs has made."""

    name: str
    command: tuple[str, ...]


def find_runtimes() -> list[Runtime]:
    """Mono and CoreCLR, those of them that are there."""
    found = []
    mono = shutil.which("mono")
    if mono is not None and shutil.which("mcs") is not None:
        found.append(Runtime("mono", (mono,)))
    dotnet = os.environ.get("DOTNET") or next(iter(ROOT.glob(".venv/dotnet/dotnetcore2/bin/dotnet")), None)
    if dotnet is not None and found:  # without mcs there is nothing to run
        found.append(Runtime("coreclr", (str(dotnet),)))
    return found


def compile_assembly(out: Path, sources: list[Path], references: Sequence[Path], *, program: bool = False) -> Path:
    """Compile C# with every warning an error, but those of fields that Unity sets or a stand-in leaves unused."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mcs",
        "-langversion:latest",
        "-unsafe",
        "-warn:4",
        "-warnaserror",
        "-nowarn:649,67,414",
        "-debug-",
        "-noconfig",
        "-nostdlib",
    ]
    command += [f"-target:{'exe' if program else 'library'}", f"-out:{out}"]
    command += [f"-r:{FRAMEWORK / name}" for name in ("mscorlib.dll", "System.dll", "System.Core.dll")]
    command += [f"-r:{one}" for one in references]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    if program:
        out.with_suffix(".runtimeconfig.json").write_text(json.dumps(RUNTIME_CONFIG))
    return out


def sources_of(folder: Path) -> list[Path]:
    """Every C# file below a folder."""
    return sorted(folder.rglob("*.cs"))


def build_core(out: Path) -> Path:
    """The Core alone, as Unity compiles it: without any UnityEngine."""
    return compile_assembly(out / "Everscene.Core.dll", sources_of(PACKAGE / "Runtime" / "Core"), [])


def build_checks(out: Path) -> Path:
    """The Core and the program that the tests lead."""
    core = build_core(out)
    return compile_assembly(out / "Checks.exe", sources_of(HERE / "checks"), [core], program=True)


def build_play(out: Path) -> Path:
    """The whole package against the stand-ins for Unity, its samples, and the program that plays them."""
    core = build_core(out)
    engine = compile_assembly(out / "UnityEngine.dll", sources_of(HERE / "stubs" / "UnityEngine"), [])
    editor = compile_assembly(out / "UnityEditor.dll", sources_of(HERE / "stubs" / "UnityEditor"), [engine])
    runtime_sources = [one for one in sources_of(PACKAGE / "Runtime") if one.parent.name != "Core"]
    runtime = compile_assembly(out / "Everscene.Runtime.dll", runtime_sources, [core, engine])
    inspectors = compile_assembly(
        out / "Everscene.Editor.dll", sources_of(PACKAGE / "Editor"), [core, engine, editor, runtime]
    )
    samples = compile_assembly(out / "Samples.dll", sources_of(PACKAGE / "Samples~"), [core, engine, runtime])
    everything = [core, engine, editor, runtime, inspectors, samples]
    return compile_assembly(out / "Play.exe", sources_of(HERE / "play"), everything, program=True)
