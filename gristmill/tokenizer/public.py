"""Opening tokenizers that were saved in the older formats, with the ids of their own libraries.

`vocab.txt` (WordPiece: BERT), `vocab.json` or `encoder.json` with `merges.txt` or `vocab.bpe` (byte-level BPE: GPT-2,
RoBERTa, Qwen), `.tiktoken` ranks, and SentencePiece `.model` files (see sentencepiece). All become one tokenizer.json.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.tokenizer.alphabet import CHARACTER_OF, piece_of
from gristmill.tokenizer.limits import LARGEST_ID, parse, read_bytes, read_text
from gristmill.tokenizer.sentencepiece import read_model
from gristmill.tokenizer.splits import split_named
from gristmill.tokenizer.tokenizer import ROLES, Tokenizer, configuration, content_of

CLASSES = {"GPT2Tokenizer": "gpt-2", "RobertaTokenizer": "gpt-2", "BartTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
"""Class named in tokenizer_config.json -> the split of its vocab.json and merges.txt."""

RANKS: dict[str, tuple[str, dict[str, int]]] = {
    "r50k_base": ("gpt-2", {"<|endoftext|>": 50256}),
    "cl100k_base": ("cl100k", {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259,
                               "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}),
    "o200k_base": ("gpt-4o", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}
"""Name of a published `.tiktoken` file -> its split and its special tokens, which the file itself does not hold."""


def open_public(path: Path, split: str | None = None) -> Tokenizer:
    """The tokenizer of a folder or file in an older format. UserError where there is none, or where it is broken."""
    folder = path if path.is_dir() else path.parent
    given = [path] if path.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
    names = {file.name: file for file in given}
    settings = _settings(folder)
    try:
        for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
            if vocab in names and (folder / merges).is_file():
                return _byte_level(folder / vocab, folder / merges, split, settings)
        if "vocab.txt" in names:
            return _wordpiece(names["vocab.txt"], settings)
        for suffix, opening in ((".tiktoken", _tiktoken), (".model", _sentencepiece)):
            found = [file for file in given if file.suffix == suffix]
            if len(found) == 1:
                return opening(found[0], split, settings)
    except UserError as error:
        raise error if error.where else UserError(error.what, where=str(path), fix=error.fix) from error
    raise UserError("there is no tokenizer.json here, nor an older kind of tokenizer", where=str(path),
                    fix="name the folder of a tokenizer or of a model that carries one")


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with the tokens of special_tokens_map.json."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name)
            merged.update({k: v for k, v in found.items() if v is not None} if isinstance(found, dict) else {})
    return merged


def _byte_level(vocab_file: Path, merges_file: Path, split: str | None, settings: dict[str, Any]) -> Tokenizer:
    vocab = _ids(parse(read_text(vocab_file), vocab_file.name), vocab_file)
    merges = [line for line in read_text(merges_file).split("\n") if line and not line.startswith("#version")]
    kind = str(settings.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if split is None and kind not in CLASSES:
        raise UserError(f"how {kind} splits text is not known here", where=str(vocab_file),
                        fix="give the folder a tokenizer.json, or name the split")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("a merge does not consist of two pieces", where=str(merges_file))
    roles = _roles(settings, vocab, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
                   if "<s>" not in vocab else {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
                                               "unk_token": "<unk>", "mask_token": "<mask>"})
    return _assembled(vocab, pairs, split or CLASSES[kind], roles, settings)


def _tiktoken(file: Path, split: str | None, settings: dict[str, Any]) -> Tokenizer:
    """Ranks are merged by the rank of what a pair makes, whichever pair that is; so every way to make it is a merge."""
    known, special = RANKS.get(file.stem, (None, {}))
    if (split := split or known) is None:
        raise UserError("a .tiktoken file does not tell how text is split, and its name is not a published one",
                        where=str(file), fix=f"name the split, or call the file one of: {', '.join(sorted(RANKS))}")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"line {number} is no token and rank", where=str(file)) from error
    if any(bytes([byte]) not in ranks for byte in range(256)) or b"" in ranks:
        raise UserError("the ranks do not hold every single byte", where=str(file))
    made = sorted((rank, ranks[token[:at]], ranks[token[at:]], token[:at], token[at:])
                  for token, rank in ranks.items() for at in range(1, len(token))
                  if token[:at] in ranks and token[at:] in ranks)
    vocab = _ids({piece_of(token): rank for token, rank in ranks.items()}, file)
    taken = set(vocab.values())
    vocab |= {name: i for name, i in (special or {"<|endoftext|>": max(taken) + 1}).items() if i not in taken}
    roles = _roles(settings, vocab, {"eos_token": "<|endoftext|>"})
    return _assembled(vocab, [(piece_of(left), piece_of(right)) for *_, left, right in made], split, roles, settings,
                      special=tuple(special), ignore_merges=True)


def _assembled(
    vocab: dict[str, int], pairs: list[Any], split: str, roles: dict[str, str], settings: dict[str, Any],
    special: tuple[str, ...] = (), ignore_merges: bool = False,
) -> Tokenizer:
    missing = [letter for letter in CHARACTER_OF.values() if letter not in vocab]
    if missing:
        raise UserError("the vocabulary does not hold every single byte, so it is not byte-level")
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=ignore_merges))
    except Exception as error:
        raise UserError(f"vocabulary and merges do not fit together ({error})") from error
    backend.pre_tokenizer = split_named(split)
    backend.decoder = decoders.ByteLevel()
    _add_special(backend, {*roles.values(), *special}, roles.get("mask_token"))
    return Tokenizer(backend.to_str(), configuration(chat_template=settings.get("chat_template"), **roles))


def _wordpiece(file: Path, settings: dict[str, Any]) -> Tokenizer:
    lines = read_text(file).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    vocab = {line.rstrip("\r"): i for i, line in enumerate(lines)}
    roles = _roles(settings, vocab, {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                                     "pad_token": "[PAD]", "mask_token": "[MASK]"})
    if "unk_token" not in roles:
        raise UserError("the vocabulary has no token for unknown words ([UNK])", where=str(file))
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token=roles["unk_token"],
                                                    max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)), strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    _add_special(backend, set(roles.values()), None)
    if {"cls_token", "sep_token"} <= set(roles):
        first, last = roles["cls_token"], roles["sep_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(first, vocab[first]), (last, vocab[last])])
    return Tokenizer(backend.to_str(), configuration(chat_template=None, **roles))


def _sentencepiece(file: Path, split: str | None, settings: dict[str, Any]) -> Tokenizer:
    backend, roles = read_model(read_bytes(file))
    known = {**roles, **_roles(settings, backend.get_vocab(), {})}
    _add_special(backend, {token for role, token in known.items()}, None)
    return Tokenizer(backend.to_str(), configuration(chat_template=settings.get("chat_template"), **known))


def _ids(vocab: dict[str, Any], file: Path) -> dict[str, int]:
    for token, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i <= LARGEST_ID:
            raise UserError(f"the token {token!r} has no id from 0 to {LARGEST_ID}", where=str(file))
    return vocab


def _roles(settings: dict[str, Any], vocab: dict[str, int], usual: dict[str, str]) -> dict[str, str]:
    """Role -> token, as the settings or else custom say, where the vocabulary holds it."""
    named = {role: content_of(settings.get(role)) or usual.get(role) for role in ROLES}
    return {role: token for role, token in named.items() if isinstance(token, str) and token in vocab}


def _add_special(backend: tokenizers.Tokenizer, tokens: set[str], takes_space: str | None) -> None:
    backend.add_special_tokens([
        tokenizers.AddedToken(token, special=True, normalized=False, lstrip=token == takes_space)
        for token in sorted(tokens, key=lambda t: (backend.token_to_id(t) or 0, t))])
