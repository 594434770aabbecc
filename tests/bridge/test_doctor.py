"""What the doctor says of ring, ports and packages; and the command."""

import json
import socket
from pathlib import Path

from typer.testing import CliRunner

from everscene_bridge import doctor
from everscene_bridge.cli import app


def test_a_ring_without_room_is_a_problem() -> None:
    finding = doctor.ring_finding(Path("/dev/shm"), 16 * 2**20)
    assert finding.state == "problem" and "--shm-size" in finding.advice
    assert doctor.ring_finding(Path("/dev/shm"), 2**30).state == "ok"
    assert doctor.ring_finding(None, 0).state == "problem"


def test_the_largest_ring_has_room_for_its_slots() -> None:
    assert doctor.ring_bytes() == 1280 * 704 * 4 * 8


def test_a_port_that_another_listens_on_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not doctor.port_is_free(port)
        finding = doctor.port_finding("control", port, "--control-port", False)
    assert finding.state == "note" and "--control-port 0" in finding.advice
    assert doctor.port_is_free(port)


def test_a_missing_package_is_named_with_its_extra() -> None:
    finding = doctor.extra_finding("av", "record", "everscene record", False)
    assert finding.advice == "pip install everscene[record]"


def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--home", str(tmp_path)])
    findings = json.loads(result.output)
    assert {"device", "frame ring", "control port", "memory for longlive2-5b"} <= {one["what"] for one in findings}
    assert result.exit_code == (1 if any(one["state"] == "problem" for one in findings) else 0)
