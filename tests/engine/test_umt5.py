"""The umT5 encoder: run at the real length it equals the padded run; prompts are cleaned, kept and never lost."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from everscene_engine.errors import CheckpointError, PromptRejected
from everscene_engine.models import networks
from everscene_engine.umt5 import EmbeddingStore, UMT5TextEncoder, clean, load_tokenizer
from tests.engine.published import TEXT, filled, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def network() -> Any:
    made: Any = filled(networks.text(TEXT))
    made.encoder.embed_tokens.weight = made.shared.weight
    return made


class Counted:
    """Makes the network, and counts how often."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        return self.network


def encoder(network: Any, tokenizer: Any, folder: Path | None = None, **options: Any) -> UMT5TextEncoder:
    load = network if isinstance(network, Counted) else Counted(network)
    return UMT5TextEncoder(load, tokenizer, EmbeddingStore(folder, "weights 1"), **options)


def test_the_real_length_gives_what_the_padded_run_gives(network: Any, tokenizer: Any) -> None:
    """The published way: 512 rows with a mask, rows past the end set to zero."""
    prompt = "a red fox, a storm"
    padded = tokenizer(prompt, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    with torch.no_grad():
        rows = network(input_ids=padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state
    found = encoder(network, tokenizer).encode([prompt])
    length = int(padded.attention_mask.sum())
    assert found.lengths.tolist() == [length] and found.padded_to == 512
    assert found.tokens.shape == (1, length, TEXT["d_model"])
    assert found.tokens.std() > 0.1
    torch.testing.assert_close(found.tokens[0], rows[0, :length], atol=1e-5, rtol=0)  # float32 sums of another length


def test_prompts_of_several_lengths_are_padded_and_do_not_touch_each_other(network: Any, tokenizer: Any) -> None:
    text = encoder(network, tokenizer)
    both = text.encode(["a red fox", "a storm, a red fox, a harbour"])
    assert both.tokens.shape[1] == int(both.lengths.max())
    assert not both.tokens[0, both.lengths[0] :].any()
    alone = encoder(network, tokenizer).encode(["a red fox"])
    assert torch.equal(both.tokens[0, : both.lengths[0]], alone.tokens[0])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("  a   red\n\tfox ", "a red fox"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("a &lt;b&gt; &nbsp; c", "a <b> c"),
        ("schÃ¶n", "schön"),
        ("Red Fox", "Red Fox"),
        ("\u201cred\u201d", '"red"'),
    ],
)
def test_prompts_are_cleaned_as_the_models_were_trained(given: str, wanted: str) -> None:
    assert clean(given) == wanted


@pytest.mark.parametrize(("prompt", "words"), [("  \n ", "no words"), ("fox " * 512, "has 513 tokens; the rule is at")])
def test_prompts_that_cannot_be_taken_are_refused(prompt: str, words: str, network: Any, tokenizer: Any) -> None:
    with pytest.raises(PromptRejected, match=words):
        encoder(network, tokenizer).check(prompt)


def test_the_longest_prompt_is_taken(network: Any, tokenizer: Any) -> None:
    encoder(network, tokenizer).check("fox " * 511)


def test_a_prompt_leaves_room_for_the_words_that_may_come_before_it(network: Any, tokenizer: Any) -> None:
    text = encoder(network, tokenizer, padded_to=8)
    text.check("fox fox fox", reserve="a red fox ")
    text.check("fox " * 7)
    with pytest.raises(PromptRejected, match="has 6 tokens; the rule is at most 5, so that 'a red fox' fits before it"):
        text.check("fox " * 5, reserve="a red fox ")


def test_the_network_is_loaded_for_the_first_new_prompt_and_never_for_a_kept_one(
    network: Any, tokenizer: Any, tmp_path: Path
) -> None:
    first = Counted(network)
    text = encoder(first, tokenizer, tmp_path)
    text.check("a red fox")
    assert first.times == 0 and not text.loaded
    made = text.encode(["a red fox"])
    text.encode(["a  red fox", "a storm"])
    assert first.times == 1 and text.loaded
    later = Counted(network)
    again = encoder(later, tokenizer, tmp_path).encode(["a red fox"])
    assert later.times == 0 and torch.equal(again.tokens, made.tokens)


def test_an_unloaded_network_comes_back_when_it_is_needed(network: Any, tokenizer: Any) -> None:
    counted = Counted(network)
    text = encoder(counted, tokenizer, placement="unload")
    text.encode(["a red fox"])
    assert not text.loaded
    text.encode(["a red fox"])
    assert counted.times == 1
    text.encode(["a storm"])
    assert counted.times == 2


def test_another_encoder_does_not_read_these_embeddings(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "weights 1").put("a fox", torch.ones(2, 3))
    assert EmbeddingStore(tmp_path, "weights 2").get("a fox") is None
    assert EmbeddingStore(tmp_path, "weights 1").get("a fox") is not None


def test_a_damaged_file_is_made_anew(network: Any, tokenizer: Any, tmp_path: Path) -> None:
    made = encoder(network, tokenizer, tmp_path).encode(["a red fox"])
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:40])
    again = encoder(network, tokenizer, tmp_path).encode(["a red fox"])
    assert torch.equal(again.tokens, made.tokens)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"prompt": "a red fox"}
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_a_folder_that_cannot_be_written_stops_nothing(
    network: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    text = encoder(network, tokenizer, tmp_path / "file")
    assert torch.equal(text.encode(["a red fox"]).tokens, text.encode(["a red fox"]).tokens)
    assert "is not kept on disk" in caplog.text and not text.kept("a red fox")


def test_a_full_disk_stops_nothing_and_leaves_no_half_of_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    store = EmbeddingStore(tmp_path, "weights")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        store.put("a fox", torch.ones(2, 4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "is not kept on disk" in caplog.text
    assert list(tmp_path.iterdir()) == [] and store.get("a fox") is not None


def test_an_embedding_that_is_not_finite_is_refused_and_not_kept(tokenizer: Any, tmp_path: Path) -> None:
    broken: Any = filled(networks.text(TEXT))
    broken.encoder.embed_tokens.weight = broken.shared.weight
    broken.shared.weight.fill_(float("nan"))
    text = encoder(broken, tokenizer, tmp_path)
    with pytest.raises(PromptRejected, match="made NaN or infinity of the prompt"):
        text.encode(["a red fox"])
    assert not text.kept("a red fox")
    broken.shared.weight.fill_(0.5)
    assert text.encode(["a red fox"]).tokens.isfinite().all()


def test_a_file_that_is_not_finite_is_made_anew(network: Any, tokenizer: Any, tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "weights 1").put("a red fox", torch.full((4, TEXT["d_model"]), float("inf")))
    found = encoder(network, tokenizer, tmp_path).encode(["a red fox"])
    assert found.tokens.isfinite().all()
    kept = EmbeddingStore(tmp_path, "weights 1").get("a red fox")
    assert kept is not None and torch.equal(kept, found.tokens[0])


def test_the_folder_of_embeddings_is_bounded_and_loses_those_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EmbeddingStore(tmp_path, "weights").put("0", torch.zeros(64, 64))
    [first] = tmp_path.iterdir()
    monkeypatch.setattr("everscene_engine.umt5.KEPT_BYTES", 8 * first.stat().st_size)
    store = EmbeddingStore(tmp_path, "weights")
    for place, prompt in enumerate("01234567"):
        store.put(prompt, torch.zeros(64, 64))
        path = store._path(prompt)
        assert path is not None
        os.utime(path, (place, place))
    assert len(list(tmp_path.iterdir())) == 8
    EmbeddingStore(tmp_path, "weights").get("0")
    store.put("8", torch.zeros(64, 64))
    assert [prompt for prompt in "012345678" if store.on_disk(prompt)] == ["0", "3", "4", "5", "6", "7", "8"]


def test_the_memory_of_prompts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everscene_engine.umt5.REMEMBERED", 2)
    store = EmbeddingStore(None, "weights")
    for prompt in ("one", "two", "one", "three"):
        store.put(prompt, torch.ones(1, 1))
    assert store.get("two") is None and store.get("one") is not None and store.get("three") is not None


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("no json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)
