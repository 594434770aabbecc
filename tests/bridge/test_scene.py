"""Scene files: what events do to the prompt, and what is wrong with a file or a param."""

import itertools
import re
from typing import Any

import pytest

from everscene_bridge.errors import InputRejected, SceneError
from everscene_bridge.inputs import Action, Input
from everscene_bridge.messages import ParamValue
from everscene_bridge.scene import Scene, SceneState, load_scene, parse_scene
from everscene_bridge.scene_file import SceneFile
from everscene_bridge.scene_params import NumberParam
from everscene_bridge.yaml_file import YamlText

SCENE = """
name: harbour story
template: "{subject} in a {setting} at {time}, {weather}, {moment}"
slots: {subject: "a ship", setting: harbour, time: day, weather: clear, moment: ""}
events:
  storm:
    group: weather
    set: {weather: "{intensity} storm"}
    params:
      intensity: {type: number, min: 0, max: 1, default: 0.7, words: [[0.35, light], [0.7, ""], [1.0, violent]]}
  banner:
    label: Show a banner
    for: 2.5s
    when: chunk
    transition: text
    set: {moment: "a {colour} banner {motto} {big}"}
    params:
      colour: {type: choice, choices: [red, blue], default: red}
      motto: {type: text, max_length: 8}
      big: {type: flag, default: false, if_true: "of great size"}
  night: {set: {time: night}}
"""


@pytest.fixture
def scene() -> Scene:
    return parse_scene(SCENE)


def after(scene: Scene, state: SceneState, name: str, **params: ParamValue) -> SceneState:
    return state.after(Input(1, scene.action(name, params, None), 0))


def test_the_first_prompt_is_the_template_with_the_slots(scene: Scene) -> None:
    assert scene.compose(scene.initial) == "a ship in a harbour at day, clear"


@pytest.mark.parametrize(
    ("intensity", "weather"), [(0.0, "light storm"), (0.35, "light storm"), (0.5, "storm"), (0.71, "violent storm")]
)
def test_a_number_is_said_in_words(scene: Scene, intensity: float, weather: str) -> None:
    state = after(scene, scene.initial, "storm", intensity=intensity)
    assert scene.compose(state) == f"a ship in a harbour at day, {weather}"


def test_params_have_defaults(scene: Scene) -> None:
    assert scene.action("storm", {}, None).sets == {"weather": "storm"}


def test_choice_text_and_flag_params(scene: Scene) -> None:
    action = scene.action("banner", {"colour": "blue", "motto": "hello", "big": True}, None)
    assert action.sets == {"moment": "a blue banner hello of great size"}
    assert (action.for_s, action.transition, action.when) == (2.5, "text", "chunk")


def test_the_senders_when_wins(scene: Scene) -> None:
    assert scene.action("banner", {}, "now").when == "now"


@pytest.mark.parametrize(
    ("name", "params", "code", "words"),
    [
        ("strom", {}, "unknown_event", "storm"),
        ("storm", {"force": 1}, "unknown_param", "intensity"),
        ("storm", {"intensity": 1.5}, "out_of_range", "from 0 to 1"),
        ("storm", {"intensity": "much"}, "wrong_type", "a number"),
        ("storm", {"intensity": True}, "wrong_type", "a number"),
        ("banner", {"colour": "green"}, "out_of_range", "red, blue"),
        ("banner", {"colour": 3}, "wrong_type", "red, blue"),
        ("banner", {"motto": "much too long"}, "out_of_range", "8 characters"),
        ("banner", {"big": 1}, "wrong_type", "true or false"),
    ],
)
def test_a_wrong_param_is_named(scene: Scene, name: str, params: dict[str, ParamValue], code: str, words: str) -> None:
    with pytest.raises(InputRejected) as caught:
        scene.action(name, params, None)
    assert caught.value.code == code
    assert words in caught.value.reason


def test_a_momentary_event_lies_over_the_slots(scene: Scene) -> None:
    state = after(scene, scene.initial, "banner")
    assert scene.compose(state).endswith("a red banner")
    assert scene.compose(state, lambda momentary: False) == scene.compose(scene.initial)


def test_a_prompt_stands_in_place_of_the_scene_until_an_event(scene: Scene) -> None:
    state = scene.initial.after(Input(1, Action(prompt="something else"), 0))
    assert scene.compose(state) == "something else"
    assert scene.compose(after(scene, state, "night")) == "a ship in a harbour at night, clear"


def test_the_handshake_tells_events_and_params(scene: Scene) -> None:
    storm, banner, night = scene.describe().events
    assert (storm.name, storm.label, storm.group, storm.when, storm.for_s) == ("storm", "Storm", "weather", "now", None)
    assert (storm.params[0].min, storm.params[0].max, storm.params[0].default) == (0.0, 1.0, 0.7)
    assert (banner.label, banner.when, banner.for_s) == ("Show a banner", "chunk", 2.5)
    assert [param.type for param in banner.params] == ["choice", "text", "flag"]
    assert night.params == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: harbour story", "", "name: is missing"),
        ("name: harbour story", "name: 3", "name: must be text (got 3)"),
        ("{moment}", "{mood}", "template asks for {mood}"),
        ("{time: night}", "{hour: night}", "events.night.set.hour"),
        ("{intensity} storm", "{force} storm", "events.storm"),
        ("default: 0.7", "default: 7", "default 7.0 must lie from min 0.0 to max 1.0"),
        ("[1.0, violent]", "[0.9, violent]", "reach max 1.0"),
        ("default: red", "default: green", "must be one of"),
        ("for: 2.5s", "for: soon", "events.banner.for"),
        ("for: 2.5s", "for: -1", "events.banner.for"),
        ("transition: text", "transition: fade", "events.banner.transition"),
        ("type: flag", "type: lamp", "events.banner.params.big"),
        ("group: weather", "colour: weather", "events.storm.colour: there is no such field"),
        ("for: 2.5s", "for: soon", "must be seconds, as 2.5, 2.5s or 1:02.5 (got 'soon')"),
        ("for: 2.5s", "priority: 101", "events.banner.priority: must be at most 100 (got 101)"),
        ("  storm:", "  Storm:", "events.Storm: a name is made of small letters"),
        ("motto", "Motto", "a name is made of small letters"),
        ("default: red", "default: on", "must be text: YAML reads on, off, yes and no as true and false"),
        (
            "transition: text",
            "transition: fade",
            "events.banner.transition: must be recache, text, cut, reset or blend",
        ),
        ("type: flag", "type: lamp", "events.banner.params.big: type must be one of number, choice, text, flag"),
        ("{moment}", "{Moment}", "template: {Moment} is no place for a slot"),
        ("{moment}", "{moment", "template: {moment is no place for a slot"),
        ("{intensity} storm", "{intensity}} storm", "events.storm.set.weather: } is no place for a param"),
        (", {moment}", "", "events.banner.set.moment: template does not hold {moment}, so nobody would see it"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(old: str, new: str, words: str) -> None:
    with pytest.raises(SceneError) as caught:
        parse_scene(SCENE.replace(old, new), "story.yaml")
    assert words in str(caught.value)
    assert re.match(r"story\.yaml:\d+:\d+: ", str(caught.value))


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\t", "3", "a: " + "[" * 1000 + "]" * 1000])
def test_what_is_no_scene_at_all_is_named(text: str) -> None:
    with pytest.raises(SceneError, match=r"story\.yaml"):
        parse_scene(text, "story.yaml")


def test_a_value_nested_too_deep_to_print_is_named_like_any_other() -> None:
    data: Any = []
    for _ in range(1000):
        data = [data]
    with pytest.raises(SceneError, match=r"slots: must be a map of names to values \(got \[\[\["):
        YamlText("story.yaml", {"slots": data}, None).check(SceneFile)


def all_prompts(scene: Scene) -> set[str]:
    """Every prompt that events of the default scene can lead to: one event of each group at a time."""
    groups: dict[str, list[str | None]] = {}
    for name, event in scene.file.events.items():
        groups.setdefault(event.group, [None]).append(name)
    prompts = set()
    for chosen in itertools.product(*groups.values()):
        events = [name for name in chosen if name is not None]
        for intensity in (0.0, 0.5, 1.0):
            state = scene.initial
            for name in events:
                params = scene.file.events[name].params
                values: dict[str, ParamValue] = {
                    key: intensity for key, param in params.items() if isinstance(param, NumberParam)
                }
                state = after(scene, state, name, **values)
            prompts.add(scene.compose(state))
    return prompts


def test_the_default_scene_has_only_words_that_the_pocket_model_knows() -> None:
    captions = pytest.importorskip("everscene_engine.training.world.captions")
    prompts = all_prompts(load_scene())
    assert len(prompts) > 500
    unknown = {word for prompt in prompts for word in captions.tokenize(prompt)} - set(captions.VOCABULARY)
    assert not unknown


@pytest.mark.parametrize(
    ("event", "attribute", "value"),
    [
        *[(name, "weather", name) for name in ("storm", "rain", "snow", "fog")],
        ("calm", "weather", "clear"),
        *[(name, "time", name) for name in ("dawn", "day", "dusk", "night")],
        *[(name, "moment", name) for name in ("lightning", "fireworks", "meteor", "birds")],
        *[(name, "setting", name) for name in ("harbour", "forest", "desert", "mountains", "city")],
    ],
)
def test_an_event_of_the_default_scene_says_what_it_means_to_the_pocket_model(
    event: str, attribute: str, value: str
) -> None:
    captions = pytest.importorskip("everscene_engine.training.world.captions")
    scene = load_scene()
    assert captions.parse_attributes(scene.compose(after(scene, scene.initial, event)))[attribute] == value


def test_intensity_in_the_default_scene_is_the_pocket_models() -> None:
    captions = pytest.importorskip("everscene_engine.training.world.captions")
    scene = load_scene()
    for intensity, word in ((0.1, "light"), (0.9, "heavy")):
        prompt = scene.compose(after(scene, scene.initial, "storm", intensity=intensity))
        assert captions.parse_attributes(prompt)["intensity"] == word


def test_a_state_of_an_older_file_takes_the_first_words_of_slots_it_lacks(scene: Scene) -> None:
    assert scene.compose(SceneState({"time": "night"})) == "a ship in a harbour at night, clear"


@pytest.mark.parametrize("name", ["name", "when"])
def test_a_param_may_not_be_called_like_a_field_of_the_message(name: str) -> None:
    with pytest.raises(SceneError, match=rf"story\.yaml:9:5: events\.storm\.params: .*may not be called '{name}'"):
        parse_scene(SCENE.replace("intensity", name), "story.yaml")


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("{time: night}", "{hour: night}", "21:17", "there is no slot of this name; there are subject"),
        ("{subject} in a", "a boat in a", "3:1", "template must hold {subject}"),
        ("for: 2.5s", "decay: text", "11:3", "decay is the way back after `for`"),
        ("when: chunk", "when: soon", "14:5", "events.banner.when"),
        ("transition: text", "transition: {blend: -1}", "15:18", "transition.blend: must be more than 0 (got -1)"),
        ("group: weather", "coalesce: sum\n    cooldown: -2", "8:5", "events.storm.cooldown"),
        ("weather: clear,", "weather: {default: clear, choices: [fog]},", "4:", "default 'clear' must be one of 'fog'"),
        ("night: {set", "storm: {set", "21:3", "'storm' stands here a second time"),
        ("name: harbour story", "name: [", "", "this is not YAML"),
    ],
)
def test_an_error_names_line_and_column(old: str, new: str, place: str, words: str) -> None:
    with pytest.raises(SceneError) as caught:
        parse_scene(SCENE.replace(old, new), "story.yaml")
    assert any(line.startswith(f"story.yaml:{place}") and words in line for line in str(caught.value).splitlines()), (
        caught.value
    )


def test_a_slot_with_choices_takes_no_others(scene: Scene) -> None:
    chosen = parse_scene(SCENE.replace("weather: clear,", "weather: {default: clear, choices: [clear, light storm]},"))
    assert chosen.action("storm", {"intensity": 0.1}, None).sets == {"weather": "light storm"}
    with pytest.raises(InputRejected, match=r"storm sets weather: it must be one of 'clear', 'light storm'"):
        chosen.action("storm", {"intensity": 0.9}, None)


def test_subject_and_setting_can_stand_at_the_top() -> None:
    template = '"{style}: {subject} in a {setting}"'
    text = f"name: x\nsubject: a fox\nsetting: city\nstyle: ink\ntemplate: {template}\nevents: {{}}\n"
    scene = parse_scene(text)
    assert scene.compose(scene.initial) == "ink: a fox in a city"
    with pytest.raises(SceneError, match=r"6:9: slots\.style: style is given above already"):
        parse_scene(text.replace("events", "slots: {style: oil}\nevents"))
