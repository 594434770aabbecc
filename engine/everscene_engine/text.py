"""Prompts become text embeddings.

`TextEncoder` is what the stream needs of any encoder. `PocketTextEncoder` is the pocket model's own: a documented
vocabulary, one embedding for each word, two small transformer layers so that words know of each other. A word it
does not know is refused with its nearest neighbours, since a word ignored in silence looks like a broken model. So a
word is whatever could mean something: letters of any script, digits, signs and emoji too.
"""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from everscene_engine.conditioning import TextEmbedding
from everscene_engine.errors import PromptRejected

_WRITTEN_AS = str.maketrans({"&": " and ", "\u2019": "'"})
_DIVIDING = ("Cc", "Cf", "Cs")  # besides white space and punctuation, the Unicode categories of what has no shape


class TextEncoder(Protocol):
    """Turns prompts into embeddings; `check` refuses what it cannot take, quickly and from any thread.

    reserve: words that may be put before the prompt later, as those that announce a cut: a prompt that leaves no room
    for them is refused.
    """

    def check(self, prompt: str, reserve: str = "") -> None: ...

    def encode(self, prompts: Sequence[str]) -> TextEmbedding: ...

    def unload(self) -> None:
        """Let go of what can be loaded again; `check` goes on without."""


def check_length(length: int, limit: int, unit: str, reserve: str = "") -> None:
    """Raise PromptRejected for a prompt of more than `limit` words or tokens, which is what fits beside `reserve`."""
    if length > limit:
        why = f", so that '{reserve.strip()}' fits before it" if reserve else ""
        raise PromptRejected(f"the prompt has {length} {unit}; the rule is at most {limit}{why}")


def words_of(prompt: str) -> list[str]:
    """The words of a prompt, lower-cased: what white space and punctuation divide, an apostrophe inside a word apart.
    "&" is the word "and"; letters of full width are the common ones."""
    text = unicodedata.normalize("NFKC", prompt).lower().translate(_WRITTEN_AS)
    words = "".join(" " if _divides(character) else character for character in text).split()
    return [word for word in (word.strip("'") for word in words) if word]


def _divides(character: str) -> bool:
    category = unicodedata.category(character)
    return character != "'" and (category[0] in "PZ" or category in _DIVIDING)


@dataclass(frozen=True)
class PocketTextConfig:
    """vocabulary: the words it knows, in order (their place is their id; id 0 pads). width: of the embeddings.
    max_words: of a prompt."""

    vocabulary: tuple[str, ...]
    width: int = 192
    heads: int = 4
    layers: int = 2
    max_words: int = 40


class PocketTextEncoder(nn.Module):
    """Word ids [P, L] -> embeddings [P, L, width]."""

    def __init__(self, config: PocketTextConfig) -> None:
        super().__init__()
        self.config = config
        self._ids = {word: index + 1 for index, word in enumerate(config.vocabulary)}
        self.word = nn.Embedding(len(config.vocabulary) + 1, config.width, padding_idx=0)
        self.place = nn.Parameter(torch.randn(config.max_words, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 2 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)

    def check(self, prompt: str, reserve: str = "") -> None:
        """Raise PromptRejected for an empty prompt, unknown words, or too many of them beside those of `reserve`."""
        words = words_of(prompt)
        if not words:
            raise PromptRejected("the prompt has no words")
        check_length(len(words), self.config.max_words - len(words_of(reserve)), "words", reserve)
        unknown = list(dict.fromkeys(word for word in words if word not in self._ids))
        if unknown:
            raise PromptRejected("; ".join(self._unknown(word) for word in unknown))

    def _unknown(self, word: str) -> str:
        near = difflib.get_close_matches(word, self._ids, n=3, cutoff=0.6)
        return f"no such word: '{word}'" + (f" (did you mean {', '.join(near)}?)" if near else "")

    def ids(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word ids [P, L] padded with 0, and lengths [P], on the CPU. Raises PromptRejected."""
        for prompt in prompts:
            self.check(prompt)
        rows = [[self._ids[word] for word in words_of(prompt)] for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids, lengths

    def unload(self) -> None:
        """Nothing: it is small, and `check` needs its words."""

    def forward(self, ids: Tensor) -> Tensor:
        """Word ids [P, L], 0 where padded -> embeddings [P, L, width]; padded rows hold nothing of use."""
        x = self.word(ids) + self.place[: ids.shape[1]]
        x = self.layers(x, src_key_padding_mask=ids == 0)
        normed: Tensor = self.norm(x)
        return normed

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of some prompts, on the encoder's device. Raises PromptRejected."""
        ids, lengths = self.ids(prompts)
        device = self.place.device
        with torch.no_grad():
            return TextEmbedding(self(ids.to(device)), lengths.to(device))
