"""Older formats of public tokenizers, against the libraries that made them."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import tarfile
from pathlib import Path

import pytest

from gristmill.core.errors import UserError
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.alphabet import bytes_of
from gristmill.tokenizer.limits import DEEPEST
from gristmill.tokenizer.sentencepiece import fields, parse
from gristmill.tokenizer.splits import SINGLE_DIGITS
from gristmill.tokenizer.train import Plan, train
from tests.shared import DATA

TEXTS = [
    "Hello, World! It's 2024; IT'S naïve — “quoted” … don't\n\n\tdef f(x):\n        return  x_1 + 3.14159\r\n",
    "Žluťoučký kůň úpěl ďábelské ódy. Grüße aus München! Où êtes-vous, garçon? ¿Qué?",
    "中文文本，日本語テキスト。한국어 العربية हिन्दी ไทย עברית ελληνικά русский",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 ½ Ⅷ ١٢٣ ﬁ ＡＢＣ \u00a0\u3000\u200b x² ",
    "   leading,   inner   and trailing   ", "", " ", "<|endoftext|> [MASK] [SEP] <s></s>", "\n\n\n", "a" * 150 + " b",
]


@pytest.fixture(scope="module")
def prose() -> list[str]:
    """Text in four languages, code-like help and short commands."""
    found = list(TEXTS)
    for name in ("gnome_help_en-de", "tldr_en-es"):
        path = DATA / "translation" / f"{name}.tsv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
                found += [line.rstrip("\n").replace("\t", "\n") for line in file][:300]
    for language in ("zh", "es"):
        path = DATA / "qa" / f"xquad_{language}_36articles.json.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as file:
                found += [p["context"] for article in json.load(file)["data"] for p in article["paragraphs"]][:60]
    return found


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    archive = DATA / "tokenizer" / "gpt2_bpe.tar.xz"
    if not archive.is_file():
        pytest.skip("shared data is not here")
    folder = tmp_path_factory.mktemp("gpt2")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_gpt2_from_its_original_files_equals_transformers(gpt2, prose):
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(gpt2)
    oracle = transformers.GPT2Tokenizer(
        vocab=json.loads((gpt2 / "encoder.json").read_text(encoding="utf-8")),
        merges=[tuple(line.split(" ")) for line in
                (gpt2 / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:] if line])
    plain = [text.replace("<|endoftext|>", "") for text in prose]
    expected = [oracle.encode(text, add_special_tokens=False) for text in plain]
    assert ours.encode_batch(plain) == expected
    assert ours.eos_id == oracle.eos_token_id == 50256
    assert ours.losses == []
    assert [ours.decode(ours.encode(text)) for text in prose] == prose
    assert ours._fast[1] == "gigatoken"
    assert ours.encode_batch(plain) == expected


def test_tiktoken_ranks_equal_tiktoken(tokenizer, prose, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    entries = sorted((i, bytes_of(tokenizer.token_name(i))) for i in range(7, tokenizer.vocab_size))
    ranks = {token: rank for rank, (_, token) in enumerate(entries)}
    path = tmp_path / "own.tiktoken"
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    oracle = tiktoken.Encoding("own", pat_str=SINGLE_DIGITS, mergeable_ranks=ranks, special_tokens={})
    ours = Tokenizer.load(path, split="qwen2")
    assert ours.encode_batch(prose) == [oracle.encode_ordinary(text) for text in prose]
    assert ours.encode_flat(prose)[0].tolist() == [i for text in prose for i in oracle.encode_ordinary(text)]
    with pytest.raises(UserError, match="does not tell how text is split"):
        Tokenizer.load(path)
    # A published name tells the split and the special tokens.
    published = path.rename(tmp_path / "cl100k_base.tiktoken")
    assert Tokenizer.load(published).token_id("<|fim_prefix|>") == 100258


@pytest.mark.parametrize("lower", [True, False])
def test_wordpiece_from_vocab_txt_equals_transformers(texts, prose, tmp_path, lower):
    transformers = pytest.importorskip("transformers")
    made = train([texts[:3] + prose], Plan(vocab_size=3000, method="wordpiece"))
    words = [made.token_name(i) for i in range(8, made.vocab_size)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours = Tokenizer.load(tmp_path)
    oracle = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, do_lower_case=lower)
    plain = [text.replace("[MASK]", "").replace("[SEP]", "") for text in prose]
    assert ours.encode_batch(plain) == [oracle.encode(text, add_special_tokens=False) for text in plain]
    assert ours.prefix_ids == [2]
    assert ("capital letters" in ours.losses) == lower
    assert "white space" in ours.losses


@pytest.mark.parametrize(("kind", "options"), [
    ("unigram", {}), ("unigram", {"byte_fallback": True, "normalization_rule_name": "identity"}),
    ("bpe", {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}),
    ("bpe", {"add_dummy_prefix": False}),
])
def test_sentencepiece_models_equal_sentencepiece(prose, tmp_path, kind, options):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(prose), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), vocab_size=1400, model_type=kind,
        hard_vocab_limit=False, minloglevel=2, character_coverage=0.98, num_threads=1, **options)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    ours = Tokenizer.load(tmp_path / "spiece.model")
    assert ours.vocab_size == oracle.vocab_size()
    plain = [text.replace("<s>", "").replace("</s>", "") for text in prose]
    wrong = [text for text in plain if ours.encode(text) != oracle.encode(text)]
    assert not wrong
    assert (ours.bos_id, ours.eos_id) == (oracle.bos_id(), oracle.eos_id())


def message(*parts: tuple[int, bytes | int]) -> bytes:
    out = b""
    for number, value in parts:
        if isinstance(value, int):
            out += bytes([number << 3, value])
        else:
            out += bytes([number << 3 | 2, len(value)]) + value
    return out


@pytest.mark.parametrize("data", [
    b"", b"\xff", b"\xff" * 40, b"\x0a\x7fabc", message((1, b"\x0a\x02\xff\xfe")), b"\x0b\x00", b"\x09\x00",
    message((1, message((1, b"a")) + b"\x15\x00")), message((2, b"\x18\x80")),
])
def test_a_broken_sentencepiece_model_is_refused(tmp_path, data):
    path = tmp_path / "broken.model"
    path.write_bytes(data)
    with pytest.raises(UserError, match="no SentencePiece model"):
        Tokenizer.load(path)


def test_fields_of_a_message():
    piece = message((1, "▁a".encode())) + b"\x15" + struct.pack("<f", -1.5)
    assert list(fields(b"\x08\x96\x01" + message((3, b"x")))) == [(1, 150), (3, b"x")]
    assert parse(message((1, piece))).pieces == [("▁a", -1.5, 1)]


def broken(name: str, content: str | bytes):
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.mark.parametrize(("write", "said"), [
    (broken("tokenizer.json", "[" * 100_000), "nested too deeply|cannot be read"),
    (broken("tokenizer.json", '{"a":' * (DEEPEST + 2) + "1" + "}" * (DEEPEST + 2)), "levels deep"),
    (broken("tokenizer.json", "[1]"), "no JSON object"),
    (broken("tokenizer.json", b"\xff\xfe"), "not UTF-8"),
    (broken("vocab.txt", "a\nb\n"), "unknown words"),
    (broken("own.tiktoken", "YQ== x\n"), "does not tell"),
    (broken("cl100k_base.tiktoken", "YQ== x\n"), "line 1"),
    (broken("cl100k_base.tiktoken", "YQ== 0\n"), "every single byte"),
    (broken("vocab.json", "{}"), "no tokenizer.json"),
])
def test_a_broken_file_says_what_is_wrong(tmp_path, write, said):
    with pytest.raises(UserError, match=said):
        Tokenizer.load(write(tmp_path))


def test_wild_ids_and_large_files_are_refused(tokenizer, tmp_path, monkeypatch):
    specification = json.loads(tokenizer.specification)
    specification["model"]["vocab"]["zzzz"] = 4_000_000_000
    with pytest.raises(UserError, match="an id above"):
        Tokenizer(json.dumps(specification), tokenizer.config)
    tokenizer.save(tmp_path)
    monkeypatch.setattr("gristmill.tokenizer.limits.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match="MiB"):
        Tokenizer.load(tmp_path)
