"""umT5, the text encoder of the Wan models: transformers' network, run at a prompt's real length, and remembered.

A prompt is cleaned as the models were trained: broken characters mended, HTML entities resolved, runs of white space
made one space; letters keep their case. The encoder sees the real tokens alone. The denoiser was trained to see 512
rows, zero past the end of the prompt: `TextEmbedding.padded_to` tells it so, and it makes one row of all the zero ones.

Eleven gigabytes for a few prompts an hour are much, so an embedding is kept: in memory, and on disk under a hash of
the prompt and of the encoder. A prompt that is kept never loads the network at all. The files only save time: one that
cannot be written or read costs a run of the network, never the show.
"""

import hashlib
import html
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from everscene_engine.conditioning import TextEmbedding
from everscene_engine.errors import CheckpointError, PromptRejected
from everscene_engine.text import check_length

MAX_TOKENS = 512
REMEMBERED = 256
KEPT_BYTES = 2 * 2**30
"""Of the embeddings on disk. Of the 5B and the 1.3B, one takes 8 KiB for each token in bfloat16."""
Placement = Literal["keep", "unload"]
_SPACE = re.compile(r"\s+")

log = logging.getLogger(__name__)


def clean(prompt: str) -> str:
    """The prompt as the encoder is given it."""
    import ftfy  # only the large models need it

    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return _SPACE.sub(" ", mended.strip()).strip()


class EmbeddingStore:
    """Embeddings [L, D] by cleaned prompt: the recent ones in memory, more in `folder` (None: in memory alone).

    When the files pass KEPT_BYTES together, those that were not used for longest go. source: what tells one encoder's
    embeddings from another's, such as the hash of its weights. Safe from any thread.
    """

    def __init__(self, folder: Path | None, source: str) -> None:
        self._folder = folder
        self._source = source
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = KEPT_BYTES  # of the files, as far as is known: full until they are counted

    def get(self, prompt: str) -> Tensor | None:
        """The embedding of a cleaned prompt, or None. A file that is damaged or not finite counts as none."""
        with self._lock:
            if prompt in self._recent:
                self._recent.move_to_end(prompt)
                return self._recent[prompt]
        path = self._path(prompt)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tokens: Tensor = file.get_tensor("tokens")
        except (OSError, SafetensorError):
            return None
        if not is_finite(tokens):
            return None
        with suppress(OSError):
            os.utime(path)  # it was used now
        self._remember(prompt, tokens)
        return tokens

    def put(self, prompt: str, tokens: Tensor) -> None:
        """Keep the finite embedding [L, D] of a cleaned prompt. A file is there whole or not at all; where none can be
        written, that is logged."""
        held = tokens.detach().cpu().contiguous().clone()
        self._remember(prompt, held)
        path = self._path(prompt)
        if path is None:
            return
        try:
            self._write(path, prompt, held)
            self._make_room(path.parent, path.stat().st_size)
        except (OSError, SafetensorError) as error:
            log.warning("the embedding of a prompt is not kept on disk: %s", error)

    def on_disk(self, prompt: str) -> bool:
        """Whether there is a file for a cleaned prompt."""
        path = self._path(prompt)
        return path is not None and path.is_file()

    def _write(self, path: Path, prompt: str, tokens: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{threading.get_ident()}.part")
        try:
            save_file({"tokens": tokens}, unfinished, metadata={"prompt": prompt})
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, folder: Path, added: int) -> None:
        """Count the bytes that were added; when all pass KEPT_BYTES, remove files until an eighth of that is free."""
        with self._lock:
            self._bytes += added
            if self._bytes <= KEPT_BYTES:
                return
            files = sorted((found.stat().st_mtime_ns, found.stat().st_size, found) for found in folder.iterdir())
            self._bytes = sum(size for _, size, _ in files)
            if self._bytes <= KEPT_BYTES:
                return
            for _, size, found in files:
                if self._bytes <= KEPT_BYTES * 7 // 8:
                    return
                found.unlink(missing_ok=True)
                self._bytes -= size

    def _remember(self, prompt: str, tokens: Tensor) -> None:
        with self._lock:
            self._recent[prompt] = tokens
            self._recent.move_to_end(prompt)
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)

    def _path(self, prompt: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{self._source}\n{prompt}".encode()).hexdigest()
        return self._folder / f"{name}.safetensors"


def is_finite(tokens: Tensor) -> bool:
    """Whether there is no NaN and no infinity in it."""
    return bool(torch.isfinite(tokens).all())


class UMT5TextEncoder:
    """A `text.TextEncoder`. `check` may be called from any thread.

    load: makes the network (a `transformers.UMT5EncoderModel` on its device); called when the first prompt comes that
    is not in the store. tokenizer: of transformers. placement: "keep" the network once loaded, or "unload" it after
    every call of `encode`. padded_to: rows that the denoiser was trained to see.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        tokenizer: Any,
        store: EmbeddingStore,
        placement: Placement = "keep",
        padded_to: int = MAX_TOKENS,
    ) -> None:
        self._load = load
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # the fast tokenizers lend themselves to one caller at a time
        self._store = store
        self._placement = placement
        self._padded_to = padded_to
        self._network: Any = None

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._network is not None

    def check(self, prompt: str, reserve: str = "") -> None:
        """Raise PromptRejected for an empty prompt, and for one that has, with `reserve` before it, more tokens than
        the model was trained to see."""
        cleaned = clean(prompt)
        if not cleaned:
            raise PromptRejected("the prompt has no words")
        length = len(self._ids(cleaned))
        before = len(self._ids(clean(reserve + prompt))) - length if reserve else 0
        check_length(length, self._padded_to - before, "tokens", reserve)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings [P, L, D] of some prompts on the CPU, in the network's dtype.

        Raises PromptRejected, also for a prompt of which the network makes NaN or infinity: that is never kept.
        """
        found: list[Tensor] = []
        for prompt in prompts:
            self.check(prompt)
            cleaned = clean(prompt)
            tokens = self._store.get(cleaned)
            if tokens is None:
                tokens = self._run(cleaned)
                if not is_finite(tokens):
                    raise PromptRejected("the text encoder made NaN or infinity of the prompt")
                self._store.put(cleaned, tokens)
            found.append(tokens)
        if self._placement == "unload":
            self.unload()
        lengths = torch.tensor([len(tokens) for tokens in found])
        return TextEmbedding(torch.nn.utils.rnn.pad_sequence(found, batch_first=True), lengths, self._padded_to)

    def kept(self, prompt: str) -> bool:
        """Whether the embedding of a prompt lies on disk."""
        return self._store.on_disk(clean(prompt))

    def unload(self) -> None:
        """Let go of the network; it is loaded again when it is needed."""
        self._network = None

    @torch.inference_mode()
    def _run(self, cleaned: str) -> Tensor:
        """One prompt through the network, [L, D] on the CPU."""
        if self._network is None:
            self._network = self._load()
        device = next(self._network.parameters()).device
        ids = torch.tensor([self._ids(cleaned)], device=device)
        tokens: Tensor = self._network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return tokens[0].cpu()

    def _ids(self, cleaned: str) -> list[int]:
        with self._tokenizing:
            ids: list[int] = self._tokenizer(cleaned, add_special_tokens=True).input_ids
        return ids


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Raises CheckpointError when it holds none that can be read."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise CheckpointError(f"no tokenizer in {folder}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from error
