"""The package as Unity reads it: manifest, assembly definitions, .meta files, scenes. No runtime is needed."""

import json
import re
from pathlib import Path

import pytest

from .metas import NAME, PACKAGE, assets, guid_of, meta_of, path_of
from .scenes import scene_of

ASMDEFS = sorted(PACKAGE.rglob("*.asmdef"))
MANIFEST = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
SEMVER = re.compile(r"\d+\.\d+\.\d+")


def test_every_asset_has_its_meta() -> None:
    """If this fails: python -m tests.clients.unity.metas."""
    for asset in assets():
        assert path_of(asset).read_text(encoding="utf-8") == meta_of(asset), asset


def test_no_meta_is_without_its_asset() -> None:
    assert set(PACKAGE.rglob("*.meta")) == {path_of(asset) for asset in assets()}


def test_no_two_assets_share_a_guid() -> None:
    guids = [guid_of(asset) for asset in assets()]
    assert len(set(guids)) == len(guids) > 40


def test_the_manifest_is_one_that_unity_takes() -> None:
    assert MANIFEST["name"] == NAME
    assert SEMVER.fullmatch(MANIFEST["version"])
    assert MANIFEST["unity"] == "2021.3"
    assert all(SEMVER.fullmatch(version) for version in MANIFEST["dependencies"].values())
    # Only modules of the Editor itself: nothing is downloaded.
    assert all(name.startswith("com.unity.modules.") for name in MANIFEST["dependencies"])


def test_the_version_is_the_same_everywhere() -> None:
    code = (PACKAGE / "Runtime/Core/EversceneClient.cs").read_text(encoding="utf-8")
    assert f'Version = "{MANIFEST["version"]}"' in code
    assert f"## [{MANIFEST['version']}]" in (PACKAGE / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_sample_is_in_the_manifest_and_there() -> None:
    folders = {path.name for path in (PACKAGE / "Samples~").iterdir() if path.is_dir()}
    assert {sample["path"] for sample in MANIFEST["samples"]} == {f"Samples~/{name}" for name in folders}
    for sample in MANIFEST["samples"]:
        assert sample["displayName"]
        assert sample["description"]


@pytest.mark.parametrize("script", sorted((PACKAGE / "Samples~").rglob("*.cs")), ids=lambda script: script.stem)
def test_every_sample_has_its_scene(script: Path) -> None:
    """If this fails: python -m tests.clients.unity.scenes. The scene names the script by its GUID."""
    assert script.with_suffix(".unity").read_text(encoding="utf-8") == scene_of(script)


@pytest.mark.parametrize("path", ASMDEFS, ids=lambda path: path.stem)
def test_assembly_definitions_refer_to_what_is_there(path: Path) -> None:
    definition = json.loads(path.read_text(encoding="utf-8"))
    assert definition["name"] == path.stem
    assert set(definition["references"]) <= {other.stem for other in ASMDEFS}


def test_the_core_is_compiled_without_the_engine() -> None:
    core = json.loads((PACKAGE / "Runtime/Core/Everscene.Core.asmdef").read_text(encoding="utf-8"))
    assert core["noEngineReferences"] is True
    for source in (PACKAGE / "Runtime/Core").glob("*.cs"):
        assert "UnityEngine" not in source.read_text(encoding="utf-8"), source


def test_the_editors_assembly_stays_out_of_players() -> None:
    editor = json.loads((PACKAGE / "Editor/Everscene.Editor.asmdef").read_text(encoding="utf-8"))
    assert editor["includePlatforms"] == ["Editor"]
    for source in (PACKAGE / "Runtime").rglob("*.cs"):
        assert "UnityEditor" not in source.read_text(encoding="utf-8"), source


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.cs")), ids=lambda path: path.name)
def test_unity_finds_a_component_by_the_name_of_its_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for component in re.findall(r"class (\w+) : (?:MonoBehaviour|EditorWindow|ScriptableObject)", text):
        assert path.stem == component
