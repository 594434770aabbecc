"""Which free prompts a show takes: those that match one of its patterns, in which * stands for any words."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from everscene_bridge.errors import InputRejected
from everscene_bridge.inputs import Action
from everscene_bridge.scene_file import SlotSpec


@dataclass(frozen=True)
class PromptRule:
    """patterns: of prompts, and of words set directly into slots that have no choices; without any, none are taken."""

    patterns: tuple[str, ...] = ()

    def check(self, action: Action, slots: dict[str, SlotSpec]) -> None:
        """Raise InputRejected for free words that are not allowed. Events of the scene always are."""
        if action.prompt is not None:
            self._check("the prompt", action.prompt)
        elif not action.event:
            for name, words in action.sets.items():
                slot = slots[name]
                if not slot.choices and words != slot.default:
                    self._check(f"for the slot {name},", words)

    def _check(self, what: str, text: str) -> None:
        folded = text.casefold()
        if not any(fnmatchcase(folded, pattern.casefold()) for pattern in self.patterns):
            raise InputRejected("not_allowed", f"{what} {text[:60]!r} is not among those that are taken here")
