"""Write the .meta files of the Unity package: `python tests/clients/unity/metas.py`.

Unity ignores an asset of an installed package that has none. The GUID is the md5 of the package's name and the asset's
path, so it is the same for everyone and for ever; scenes refer to scripts by it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "unity_client"
NAME = "com.everscene.client"

MONO = """MonoImporter:
  externalObjects: {}
  serializedVersion: 2
  defaultReferences: []
  executionOrder: 0
  icon: {instanceID: 0}
  userData: 
  assetBundleName: 
  assetBundleVariant: 
"""
PLAIN = """{importer}:
  externalObjects: {{}}
  userData: 
  assetBundleName: 
  assetBundleVariant: 
"""
IMPORTERS = {
    ".asmdef": "AssemblyDefinitionImporter",
    ".json": "PackageManifestImporter",
    ".md": "TextScriptImporter",
    ".unity": "DefaultImporter",
}


def assets() -> Iterator[Path]:
    """Every file and folder that Unity imports, or copies into a project with a sample."""
    for path in sorted(PACKAGE.rglob("*")):
        parts = path.relative_to(PACKAGE).parts
        is_hidden = parts[0] == "Documentation~" or parts == ("Samples~",) or any(p.startswith(".") for p in parts)
        if not is_hidden and path.suffix != ".meta":
            yield path


def guid_of(asset: Path) -> str:
    """32 hex digits."""
    return hashlib.md5(f"{NAME}/{asset.relative_to(PACKAGE).as_posix()}".encode()).hexdigest()


def meta_of(asset: Path) -> str:
    """The text of its .meta file."""
    head = f"fileFormatVersion: 2\nguid: {guid_of(asset)}\n"
    if asset.is_dir():
        return head + "folderAsset: yes\n" + PLAIN.format(importer="DefaultImporter")
    if asset.suffix == ".cs":
        return head + MONO
    return head + PLAIN.format(importer=IMPORTERS[asset.suffix])


def path_of(asset: Path) -> Path:
    """Where its .meta file lies."""
    return asset.with_name(asset.name + ".meta")


if __name__ == "__main__":
    wanted = {path_of(asset): meta_of(asset) for asset in assets()}
    for orphan in set(PACKAGE.rglob("*.meta")) - set(wanted):
        orphan.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8", newline="\n")
