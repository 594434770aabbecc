"""What people would say of the world: prompts in varied plain English, and their reading back.

SYNONYMS is the whole vocabulary that means something: phrase → (attribute, value). Everything else a caption may hold
is filler. Words are lower case; punctuation only separates them.
"""

import random
import re
from typing import Literal

from everscene_engine.config import CUT_PREFIX
from everscene_engine.training.world.names import Attributes

# The first phrase of each value is its canonical wording.
_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "setting": {
        "harbour": ("harbour", "harbor", "port", "quay", "seaside", "waterfront", "lighthouse bay", "sea", "coast"),
        "forest": ("forest", "woods", "woodland", "deep forest", "trees", "forest path"),
        "desert": ("desert", "dunes", "sand dunes", "desert canyon", "arid land", "cactus desert"),
        "mountains": ("mountains", "mountain lake", "alpine lake", "snowy peaks", "alps", "mountain valley", "peaks"),
        "city": ("city", "city street", "downtown", "town", "skyline", "urban street", "metropolis"),
    },
    "time": {
        "dawn": ("dawn", "sunrise", "daybreak", "early morning", "first light", "morning"),
        "day": ("day", "daytime", "noon", "midday", "afternoon", "daylight"),
        "dusk": ("dusk", "sunset", "evening", "sundown", "twilight", "nightfall"),
        "night": ("night", "midnight", "nighttime", "moonlight", "late night", "starry night"),
    },
    "weather": {
        "clear": ("clear sky", "clear", "fair weather", "cloudless", "sunny", "clear weather", "good weather"),
        "rain": ("rain", "rainfall", "rainy", "rain shower", "raining", "drizzle", "wet weather"),
        "storm": ("storm", "thunderstorm", "tempest", "stormy weather", "stormy", "squall", "gale"),
        "snow": ("snow", "snowfall", "snowing", "snowstorm", "snowy", "snowy weather", "blizzard"),
        "fog": ("fog", "mist", "foggy", "misty", "haze", "foggy weather", "hazy"),
    },
    "intensity": {
        "light": ("light", "soft", "gentle", "slight", "faint", "mild"),
        "heavy": ("heavy", "violent", "strong", "intense", "fierce", "dense", "severe"),
    },
    "moment": {
        "lightning": ("lightning strikes", "lightning", "lightning flashes", "a bolt of lightning", "thunderbolt"),
        "fireworks": ("fireworks", "fireworks burst", "fireworks explode", "a burst of fireworks", "firework show"),
        "meteor": ("a meteor crosses the sky", "meteor", "shooting star", "falling star", "meteor streaks by"),
        "birds": ("birds fly past", "birds", "a flock of birds", "birds cross the sky", "flying birds"),
    },
    "subject": {
        "fox": ("fox", "vixen", "little fox"),
        "robot": ("robot", "android", "walking robot", "automaton", "droid"),
        "balloon": ("hot air balloon", "balloon", "striped balloon", "airship balloon"),
    },
    "colour": {
        "red": ("red", "crimson", "scarlet"),
        "blue": ("blue", "azure", "cobalt"),
        "yellow": ("yellow", "golden", "amber"),
        "green": ("green", "emerald"),
        "white": ("white", "pale", "ivory"),
        "orange": ("orange", "tangerine"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
        "teal": ("teal", "turquoise"),
        "brown": ("brown", "chestnut"),
        "grey": ("grey", "gray", "silver"),
    },
}

SYNONYMS: dict[str, tuple[str, str]] = {
    phrase: (attribute, value)
    for attribute, values in _PHRASES.items()
    for value, phrases in values.items()
    for phrase in phrases
}

_VERBS = {
    "fox": ("trots along", "walks through", "runs through", "wanders through", "moves across"),
    "robot": ("walks along", "marches through", "strolls through", "wanders through", "moves across"),
    "balloon": ("drifts over", "floats above", "glides over", "hovers above", "sails over"),
}
_AT = {"dawn": ("at",), "day": ("by", "in the"), "dusk": ("at",), "night": ("at", "by")}
_OPENINGS = ("a painting of", "a picture of", "a view of", "a wide shot of", "an animation of", "a video of")
_MOODS = ("cinematic", "calm", "quiet", "peaceful", "beautiful", "painterly", "dramatic", "stylised")
_TEMPLATES = (
    "{subject} {verb} the {setting} {at} {time}, {weather}",
    "{subject} {verb} the {setting}, {time}, {weather}",
    "{time} over the {setting} in {weather}, {subject} {drifts}",
    "{weather}, {setting}, {time}, {subject}",
    "{setting}, {time}, {weather}, {subject}",
    "{setting} {at} {time} with {subject}, {weather}",
    "{weather} over the {setting} {at} {time}, {subject} {drifts}",
    "the {setting} {at} {time}, {weather}, {subject} {drifts}",
    "{subject} in the {setting}, {weather}, {time}",
    "{time}, {subject} {verb} the {setting} in {weather}",
    "{subject}, {weather}, {time}, {setting}",
    "in the {setting} {at} {time} {subject} {drifts}, {weather}",
)
_JOINS = (
    "{base}, {moment}",
    "{moment}, {base}",
    "{base} and {moment}",
    "{base} while {moment}",
    "suddenly {moment}, {base}",
)
_ADJECTIVES = frozenset(
    {"clear", "cloudless", "sunny", "rainy", "raining", "stormy", "snowing", "snowy", "foggy", "misty", "hazy"}
)
_DRIFTS = ("passes by", "moves by", "goes by", "on its way")


def tokenize(text: str) -> list[str]:
    """The lower-case words of a text, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _pick(options: tuple[str, ...], generator: random.Random | None) -> str:
    return options[0] if generator is None else generator.choice(options)


def _mostly_first(options: tuple[str, ...], generator: random.Random | None) -> str:
    """The canonical wording two times in five: it is what a user types first."""
    return options[0] if generator is None or generator.random() < 0.4 else generator.choice(options)


def prompt_for(
    attributes: Attributes,
    generator: random.Random | None = None,
    subject: Literal["whole", "always", "mostly", "never"] = "mostly",
) -> str:
    """A prompt for these attributes; canonical if generator is None, else varied.

    Varied prompts leave out clear weather in 15 % of cases (clear is the default), with subject "mostly" the subject in
    15 % (it then means "the same as before"), and its colour in 20 %, unless subject is "whole". Words that may be left
    out are chosen all the same and the moment's words last, so that one generator state gives the same sentence with
    and without them.
    """
    template = _pick(_TEMPLATES, generator)
    phrases = _PHRASES["weather"][attributes.weather]
    if attributes.intensity != "normal" or "in {weather}" in template or "{weather} over" in template:
        phrases = tuple(phrase for phrase in phrases if phrase not in _ADJECTIVES)  # not "in rainy", not "heavy foggy"
    weather = _mostly_first(phrases, generator)
    if attributes.intensity != "normal":
        weather = f"{_mostly_first(_PHRASES['intensity'][attributes.intensity], generator)} {weather}"
    without_weather = generator is not None and generator.random() < 0.15 and attributes.weather == "clear"
    left_out = generator is not None and generator.random() < 0.15
    without_subject = subject == "never" or (subject == "mostly" and left_out)
    name = _mostly_first(_PHRASES["subject"][attributes.subject], generator)
    colour = _mostly_first(_PHRASES["colour"][attributes.colour], generator)
    colourless = generator is not None and generator.random() < 0.2 and subject != "whole"
    named = name if colourless else f"{colour} {name}"
    verb, drifts = _pick(_VERBS[attributes.subject], generator), _pick(_DRIFTS, generator)
    parts = {
        "setting": _mostly_first(_PHRASES["setting"][attributes.setting], generator),
        "time": _mostly_first(_PHRASES["time"][attributes.time], generator),
        "at": _pick(_AT[attributes.time], generator),
        "weather": "" if without_weather else weather,
        "subject": "" if without_subject else f"{_article(named)} {named}",
        "verb": "" if without_subject else verb,
        "drifts": "" if without_subject else drifts,
    }
    text = template.format(**parts)
    if generator is not None:
        filler = generator.random()
        if filler < 0.18 and template.startswith(("{subject}", "{setting}", "the ")):
            text = f"{generator.choice(_OPENINGS)} {text}"
        elif filler > 0.82:
            text = f"{text}, {generator.choice(_MOODS)}"
    if attributes.moment is not None:
        moment = _mostly_first(_PHRASES["moment"][attributes.moment], generator)
        text = _pick(_JOINS, generator).format(base=text, moment=moment)
    return _tidy(text)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _tidy(text: str) -> str:
    """Close the gaps that left-out parts leave behind."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b(in|with|over|of)( ?,|$)", ",", text)
    text = re.sub(r"(\s*,)+", ",", text)
    text = re.sub(r"^over (?=the )|(?<=, )over (?=the )", "", text.strip(" ,"))
    return re.sub(r"\s+", " ", text)


def parse_attributes(prompt: str) -> dict[str, str]:
    """Read back what a prompt says, the longest known phrase first at every word.

    Returns only what is named, among setting, time, weather, intensity, moment, subject, colour: so
    "a fox at dusk" gives {"subject": "fox", "time": "dusk"}. The first naming of an attribute counts.
    """
    words, found, at = tokenize(prompt), dict[str, str](), 0
    while at < len(words):
        for length in range(_LONGEST, 0, -1):
            known = _BY_WORDS.get(tuple(words[at : at + length]))
            if known is not None and at + length <= len(words):
                found.setdefault(*known)
                at += length
                break
        else:
            at += 1
    return found


_BY_WORDS = {tuple(tokenize(phrase)): known for phrase, known in SYNONYMS.items()}
_LONGEST = max(map(len, _BY_WORDS))


def _vocabulary() -> tuple[str, ...]:
    texts = [*SYNONYMS, CUT_PREFIX, *_OPENINGS, *_MOODS, *_DRIFTS, "a an"]
    texts += [verb for verbs in _VERBS.values() for verb in verbs] + [at for many in _AT.values() for at in many]
    texts += [re.sub(r"\{\w+\}", " ", template) for template in (*_TEMPLATES, *_JOINS)]
    return tuple(sorted({word for text in texts for word in tokenize(text)}))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word that a caption can hold, sorted."""
