"""What every test run says at its end; how long slow tests may take; Triton's interpreter, where no GPU is."""

import os
from collections import Counter
from pathlib import Path

import pytest

# Read once, when triton is first imported, which any test of any folder may cause: so before all of them. Torch is not
# asked for a GPU, because importing it here would make every test of the bridge wait for it.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


SLOW_S = 3600
"""Seconds. The slowest, `make test-replay`, takes a quarter of an hour where nothing else runs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives slow tests more time than pyproject.toml gives the others."""
    for item in items:
        if item.get_closest_marker("slow") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was skipped and why, each reason once."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.items():
        terminalreporter.write_line(f"skipped {count}: {reason}")
