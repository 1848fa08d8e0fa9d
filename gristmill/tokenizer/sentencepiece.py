"""Reading SentencePiece `.model` files without the library: a protobuf message, parsed field by field with limits.

Ids are those of SentencePiece: its pieces in order. Unigram and BPE models are read; the text is normalised by the
table that the file carries. Format: sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from gristmill.core.errors import UserError
from gristmill.tokenizer.limits import LARGEST_ID

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
DAMAGED = UserError("this is no SentencePiece model, or it was cut short", fix="copy the file again")


@dataclass
class Model:
    """What is read of a model: pieces as (text, score, type), and the settings that decide the ids."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_spaces: bool = True
    escape_spaces: bool = True
    spaces_behind: bool = False


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message: an int, or bytes (4 or 8 raw ones for fixed numbers).

    Raises UserError where the bytes are no message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise DAMAGED
        if at + size > len(data):
            raise DAMAGED
        yield number, data[at:at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DAMAGED
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def parse(data: bytes) -> Model:
    """The model in a `.model` file. Raises UserError where it is damaged."""
    model = Model()
    try:
        for number, value in fields(data):
            if number == 1 and isinstance(value, bytes):
                text, score, kind = "", 0.0, NORMAL
                for name, one in fields(value):
                    if name == 1 and isinstance(one, bytes):
                        text = one.decode("utf-8")
                    elif name == 2 and isinstance(one, bytes):
                        score = struct.unpack("<f", one)[0]
                    elif name == 3 and isinstance(one, int):
                        kind = one
                model.pieces.append((text, score, kind))
            elif number == 2 and isinstance(value, bytes):
                found = dict(fields(value))
                model.kind = int(found.get(3, UNIGRAM))
                model.byte_fallback, model.spaces_behind = bool(found.get(35, 0)), bool(found.get(24, 0))
            elif number == 3 and isinstance(value, bytes):
                found = dict(fields(value))
                model.charsmap = bytes(found.get(2, b""))  # type: ignore[arg-type]
                model.dummy_prefix, model.remove_extra_spaces, model.escape_spaces = (
                    bool(found.get(k, 1)) for k in (3, 4, 5))
    except (UnicodeDecodeError, struct.error, TypeError) as error:
        raise DAMAGED from error
    if not 0 < len(model.pieces) <= LARGEST_ID:
        raise DAMAGED
    return model


def read_model(data: bytes) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a `.model` file, and its special tokens by role. Raises UserError for what is not supported."""
    model = parse(data)
    if model.kind not in (UNIGRAM, BPE) or model.spaces_behind or not model.escape_spaces:
        raise UserError("only Unigram and BPE models of SentencePiece with spaces before words are read")
    unknown = [i for i, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN]
    if len(unknown) != 1:
        raise UserError("the SentencePiece model has no unknown piece")
    backend = tokenizers.Tokenizer(
        _unigram(model, unknown[0]) if model.kind == UNIGRAM else _bpe(model, unknown[0]))
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_spaces:
        # Spaces only: SentencePiece keeps line breaks at the ends, which the library's Strip would take.
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix and model.kind == BPE:
        steps.append(normalizers.Prepend("▁"))
    if model.kind == BPE:
        steps.append(normalizers.Replace(" ", "▁"))
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if model.dummy_prefix else "never"
    if model.kind == UNIGRAM:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    ends = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    user = [text for text, _, kind in model.pieces if kind == USER]
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False, special=False) for text in user])
    control = {text for text, _, kind in model.pieces if kind == CONTROL}
    usual = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    roles = {role: text for role, text in usual.items() if text in control}
    roles["unk_token"] = model.pieces[unknown[0]][0]
    return backend, roles


def _unigram(model: Model, unknown: int) -> models.Unigram:
    return models.Unigram([(text, score) for text, score, _ in model.pieces], unknown, model.byte_fallback)


def _bpe(model: Model, unknown: int) -> models.BPE:
    """Pairs are joined by the score of what they make, highest first; of equal ones the earlier piece first."""
    vocab: dict[str, int] = {}
    for i, (text, _, _) in enumerate(model.pieces):
        vocab[text if text not in vocab else f"<duplicate {i}>"] = i
    ordinary = {text for text, _, kind in model.pieces if kind in (NORMAL, UNUSED)}
    merges = sorted(
        (-score, vocab[text], at, text[:at], text[at:])
        for text, score, kind in model.pieces if kind == NORMAL
        for at in range(1, len(text)) if text[:at] in ordinary and text[at:] in ordinary)
    return models.BPE(vocab=vocab, merges=[(left, right) for *_, left, right in merges],
                      unk_token=model.pieces[unknown][0], fuse_unk=True, byte_fallback=model.byte_fallback)
