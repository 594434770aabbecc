"""The names of everything the world can be. Their order is their number in every tensor."""

from dataclasses import dataclass

SETTINGS = ("harbour", "forest", "desert", "mountains", "city")
TIMES = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "rain", "storm", "snow", "fog")
MOMENTS = ("lightning", "fireworks", "meteor", "birds")
SUBJECTS = ("fox", "robot", "balloon")
SUBJECT_COLOURS = ("red", "blue", "yellow", "green", "white")
INTENSITIES = ("light", "normal", "heavy")
INTENSITY_LEVELS = (0.2, 0.5, 0.9)


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
            "colour": SUBJECT_COLOURS,
            "moment": (None, *MOMENTS),
        }
        for field, names in allowed.items():
            if (value := getattr(self, field)) not in names:
                raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(map(str, names))}")
        if self.weather == "clear" and self.intensity != "normal":
            object.__setattr__(self, "intensity", "normal")
