"""Every prompt of a scene, found ahead: what events can reach is among them, and they are no more than they must be."""

import pytest

from everscene_bridge.errors import SceneError
from everscene_bridge.inputs import Input
from everscene_bridge.scene import DEFAULT_SCENE, Scene, load_scene, parse_scene
from everscene_bridge.scene_prompts import possible_prompts

SCENE = """
name: bay
template: "a {thing} in the bay, {sky}, {sound}"
slots: {thing: boat, sky: clear, sound: "", unused: nothing}
events:
  storm:
    set: {sky: "{how} storm"}
    params:
      strength: {type: number, default: 0.5, words: [[0.3, light], [1.0, heavy]]}
      how: {type: choice, choices: [calm, wild], default: wild}
  bell: {set: {sound: "{loud} bell"}, params: {loud: {type: flag, if_true: loud, if_false: faint}}}
"""


def scene() -> Scene:
    return parse_scene(SCENE)


def test_the_prompts_are_every_choice_for_every_slot_of_the_template() -> None:
    prompts = possible_prompts(scene())
    skies, sounds = ("clear", "wild storm", "calm storm"), ("", "faint bell", "loud bell")
    wanted = {f"a boat in the bay, {sky}" + (f", {sound}" if sound else "") for sky in skies for sound in sounds}
    assert set(prompts) == wanted and len(prompts) == 9
    assert prompts[0] == "a boat in the bay, clear"


def test_numbers_count_by_their_words() -> None:
    prompts = possible_prompts(parse_scene(SCENE.replace("{how} storm", "{strength} storm")))
    assert {prompt.split(", ")[1] for prompt in prompts} == {"clear", "light storm", "heavy storm"}


def test_what_the_events_of_the_shipped_scene_make_is_among_its_prompts() -> None:
    shipped = load_scene(DEFAULT_SCENE)
    prompts = set(possible_prompts(shipped))
    state = shipped.initial
    for order, name in enumerate([*shipped.file.events, *reversed(shipped.file.events)]):
        state = state.after(Input(order, shipped.action(name, {}, None), 0))
        assert shipped.compose(state) in prompts


def test_too_many_prompts_are_refused_with_their_number() -> None:
    with pytest.raises(SceneError, match="'bay' can make 9 prompts; the rule is at most 8"):
        possible_prompts(scene(), most=8)


def test_params_that_a_slot_does_not_name_do_not_multiply_its_words() -> None:
    many = ", ".join(f"p{n}: {{type: choice, choices: [a, b, c], default: a}}" for n in range(20))
    wide = f"  wide: {{set: {{sky: '{{p0}} sky', sound: '{{p1}} sound'}}, params: {{{many}}}}}\n"
    prompts = possible_prompts(parse_scene(SCENE + wide))
    assert {"a boat in the bay, c sky, b sound", "a boat in the bay, clear, c sound"} <= set(prompts)
