"""The C# Core reads and writes the golden bytes of docs/protocol.md §10."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
RunCheck = Callable[..., str]


@pytest.fixture
def said(run_check: RunCheck, tmp_path: Path) -> list[dict[str, Any]]:
    """Every line of `Checks.exe vectors`."""
    for name in ("messages", "ring"):
        (tmp_path / name).symlink_to(VECTORS / name)
    values = json.loads((VECTORS / "values.json").read_text(encoding="utf-8"))
    (tmp_path / "values.hex").write_text("".join(f"{entry['hex']}\n" for entry in values))
    return [json.loads(line) for line in run_check("vectors", tmp_path).splitlines()]


def of_kind(said: list[dict[str, Any]], kind: str, key: str) -> dict[str, dict[str, Any]]:
    return {line[key]: line for line in said if line["kind"] == kind}


def test_the_core_agrees_with_every_golden_byte(said: list[dict[str, Any]]) -> None:
    """One run for all of them: a runtime takes longer to start than to read them."""
    check_messages(of_kind(said, "message", "name"))
    check_values(of_kind(said, "value", "hex"))
    check_rings(of_kind(said, "ring", "name"))
    check_our_messages(of_kind(said, "ours", "name"))
    check_our_handshake(of_kind(said, "ours", "name"))
    assert [line["reason"] for line in said if line["kind"] == "error" and line["is"]] == ["400", "400"]


def check_messages(decoded: dict[str, dict[str, Any]]) -> None:
    files = sorted((VECTORS / "messages").glob("*.json"))
    assert len(files) > 30
    for file in files:
        assert decoded[file.stem]["value"] == json.loads(file.read_text(encoding="utf-8"))["message"], file.stem


def check_values(decoded: dict[str, dict[str, Any]]) -> None:
    for entry in json.loads((VECTORS / "values.json").read_text(encoding="utf-8")):
        line = decoded[entry["hex"]]
        assert line["value"] == entry["value"], entry["name"]
        if entry["canonical"]:
            assert line["again"] == entry["hex"], entry["name"]


def check_rings(rings: dict[str, dict[str, Any]]) -> None:
    for name in ("fresh", "live", "writing"):
        golden = json.loads((VECTORS / "ring" / f"{name}.json").read_text())
        line = rings[name]
        for field in set(line) - {"kind", "name", "slots"}:
            assert line[field] == golden["header"][field], (name, field)
        whole = [slot for slot in golden["slots"] if slot is not None and slot["lock"] % 2 == 0]
        assert len(line["slots"]) == len(whole)
        for slot, wanted in zip(line["slots"], sorted(whole, key=lambda one: one["seq"]), strict=True):
            assert slot == {field: wanted[field] for field in slot}, name


def check_our_messages(ours: dict[str, dict[str, Any]]) -> None:
    for name in ("hello", "event", "prompt", "seen", "ping", "stats_request", "bye"):
        assert ours[name]["hex"] == (VECTORS / "messages" / f"{name}.msgpack").read_bytes().hex(), name
    for name in ("event_params", "prompt_blend", "slots"):  # ours name the defaults too
        golden = json.loads((VECTORS / "messages" / f"{name}.json").read_text(encoding="utf-8"))["message"]
        written = msgpack.unpackb(bytes.fromhex(ours[name]["hex"]))
        assert {field: written[field] for field in golden} == golden, name


def check_our_handshake(ours: dict[str, dict[str, Any]]) -> None:
    golden = {entry["name"]: entry["hex"] for entry in json.loads((VECTORS / "zmtp.json").read_text())}
    for name in (
        "greeting_null", "greeting_plain", "ready_dealer_anonymous", "ready_sub", "plain_initiate", "plain_hello",
    ):  # fmt: skip
        assert ours[name]["hex"] == golden[name], name


def test_damaged_messages_are_refused_in_one_way(run_check: RunCheck) -> None:
    line = json.loads(run_check("fuzz", VECTORS, 400))
    assert line["refused"] > 1000
