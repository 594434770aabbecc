"""What becomes of inputs that meet in one chunk."""

from everscene_bridge.inputs import Action, Input, settle, strongest

STORM = Action({"weather": "storm"})
RAIN = Action({"weather": "rain"})
NIGHT = Action({"time": "night"})
STORM_NIGHT = Action({"weather": "storm", "time": "night"})
DRIZZLE = Action({"weather": "drizzle"}, for_s=1.0)
PROMPT = Action(prompt="something else")


def ends(*actions: Action) -> list[int | None]:
    """For each: the order of what superseded it, None if it is used. Orders are 1, 2, 3, …"""
    return [one.by for one in settle([Input(i, action, 0) for i, action in enumerate(actions, 1)])]


def test_nothing_settles_to_nothing() -> None:
    assert ends() == []


def test_events_on_other_slots_stand_side_by_side() -> None:
    assert ends(STORM, NIGHT) == [None, None]


def test_a_later_event_on_the_same_slot_supersedes() -> None:
    assert ends(STORM, NIGHT, RAIN) == [3, None, None]


def test_a_later_event_on_some_of_the_slots_does_not() -> None:
    assert ends(STORM_NIGHT, RAIN) == [None, None]


def test_a_later_event_on_more_slots_does() -> None:
    assert ends(STORM, NIGHT, STORM_NIGHT) == [3, 3, None]


def test_a_momentary_event_does_not_supersede_a_lasting_one() -> None:
    assert ends(STORM, DRIZZLE) == [None, None]


def test_a_lasting_event_supersedes_a_momentary_one() -> None:
    assert ends(DRIZZLE, STORM) == [2, None]


def test_a_prompt_at_the_end_supersedes_everything() -> None:
    assert ends(STORM, PROMPT, NIGHT, PROMPT) == [2, 4, 4, None]


def test_an_event_after_a_prompt_supersedes_the_prompt_and_keeps_earlier_events() -> None:
    assert ends(STORM, PROMPT, NIGHT) == [None, 3, None]


def test_the_strongest_transition_counts() -> None:
    def one(transition: str) -> Input:
        return Input(1, Action({}, transition=transition), 0)  # type: ignore[arg-type]

    assert strongest([]) == "recache"
    assert strongest([one("text")]) == "text"
    assert strongest([one("recache"), one("cut"), one("text")]) == "cut"
    assert strongest([one("reset"), one("cut")]) == "reset"
