"""The names of everything the world can be. Their order is their number in every tensor."""

from dataclasses import dataclass

SETTINGS = ("harbour", "forest", "desert", "mountains", "city")
TIMES = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "rain", "storm", "snow", "fog")
MOMENTS = ("lightning", "fireworks", "meteor", "birds")
SUBJECTS = ("fox", "robot", "balloon")
SUBJECT_COLOURS = ("red", "blue", "yellow", "green", "white")
TRAINED_COLOURS = (*SUBJECT_COLOURS, "orange", "purple", "pink", "teal", "brown", "grey")
"""What training paints subjects in. With few colours, each worn by two kinds only, a model learns pairs by heart; the
more there are, the more it must learn that any kind can have any colour. Questions ask for SUBJECT_COLOURS alone."""
INTENSITIES = ("light", "normal", "heavy")
INTENSITY_LEVELS = (0.2, 0.5, 0.9)

# What training never shows unless it is asked to, so that a model can be judged on combinations that are new to it.
# Each name alone, and each pair of names of a triple, is shown in other company.
HELD_OUT_SCENES = (  # setting, time, weather: 6 of the 100
    ("harbour", "night", "snow"),
    ("forest", "dawn", "fog"),
    ("desert", "dusk", "rain"),
    ("mountains", "night", "storm"),
    ("city", "day", "snow"),
    ("harbour", "dawn", "storm"),
)
HELD_OUT_SUBJECTS = (("fox", "blue"), ("robot", "yellow"), ("balloon", "green"))  # subject, colour: 3 of the 33


@dataclass(frozen=True)
class Attributes:
    """What a prompt says of the world. Clear weather has no intensity: it is always "normal".

    Raises ValueError, naming the field, its value and what is allowed, for a name that is not in this module.
    """

    setting: str = "harbour"
    time: str = "day"
    weather: str = "clear"
    intensity: str = "normal"
    subject: str = "fox"
    colour: str = "red"
    moment: str | None = None

    def __post_init__(self) -> None:
        allowed = {
            "setting": SETTINGS,
            "time": TIMES,
            "weather": WEATHERS,
            "intensity": INTENSITIES,
            "subject": SUBJECTS,
            "colour": TRAINED_COLOURS,
            "moment": (None, *MOMENTS),
        }
        for field, names in allowed.items():
            if (value := getattr(self, field)) not in names:
                raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(map(str, names))}")
        if self.weather == "clear" and self.intensity != "normal":
            object.__setattr__(self, "intensity", "normal")

    @property
    def scene_held_out(self) -> bool:
        """Whether setting, time and weather are one of HELD_OUT_SCENES."""
        return (self.setting, self.time, self.weather) in HELD_OUT_SCENES

    @property
    def subject_held_out(self) -> bool:
        """Whether subject and colour are one of HELD_OUT_SUBJECTS."""
        return (self.subject, self.colour) in HELD_OUT_SUBJECTS
