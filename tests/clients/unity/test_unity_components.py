"""Components, the Editor's half and samples: compiled against stand-ins for Unity, driven with a real server.

This shows that they compile and that their logic holds. It does not show how Unity behaves.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Serve
from .runtimes import Runtime

pytestmark = pytest.mark.slow  # make test-unity runs it

Play = Callable[..., None]


@pytest.fixture
def played(runtime: Runtime, play: Path, serve: Serve) -> Play:
    """Run one check of Play.exe against a fresh server."""

    def run(check: str, *more: object) -> None:
        endpoint = serve(fps=50.0).endpoint
        command = [*runtime.command, str(play), check, endpoint, *map(str, more)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == "good\n"

    return run


def test_a_thousand_updates_show_frames_and_allocate_nothing(played: Play) -> None:
    played("ThousandFrames")


def test_the_texture_is_upright_and_srgb(played: Play) -> None:
    played("UprightAndSrgb")


def test_targets_get_the_picture_mirrored_if_asked_and_are_given_back(played: Play) -> None:
    played("Targets")


def test_a_renderer_that_is_no_longer_the_target_gets_back_what_it_had(played: Play) -> None:
    played("AnotherRenderer")


def test_events_give_receipts_that_can_be_yielded(played: Play) -> None:
    played("SendAndReceipts")


def test_raw_and_jpeg_pictures_arrive_without_a_ring(played: Play) -> None:
    played("Inline")


def test_settings_can_change_while_it_runs(played: Play) -> None:
    played("SettingsChange")


def test_it_runs_in_edit_mode_only_when_asked(played: Play) -> None:
    played("EditMode")


def test_a_callback_may_disable_the_component(played: Play) -> None:
    played("DisabledInACallback")


@pytest.mark.parametrize(
    "check", ["Triggers", "EnabledBeforeTheStream", "Rest", "AnimatorStates", "Values", "MistakesAreTold"]
)
def test_events_component(played: Play, check: str) -> None:
    played(check)


@pytest.mark.parametrize("check", ["Inspector", "Window", "BindingDrawer", "ProcessOutlivesUsAndStops"])
def test_editor(played: Play, check: str) -> None:
    played(check)


def test_play_starts_the_sidecar_once_and_only_if_asked(played: Play, tmp_path: Path) -> None:
    played("PlayStartsTheSidecarOnce", tmp_path)


@pytest.mark.parametrize("check", ["Painting", "PortalVolumes", "Skybox"])
def test_sample(played: Play, check: str) -> None:
    played(check)
