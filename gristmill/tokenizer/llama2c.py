"""Reading the `tokenizer.bin` of llama2.c: SentencePiece BPE pieces with scores."""

from __future__ import annotations

import struct
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers

from gristmill.core.errors import UserError
from gristmill.tokenizer.tokenizer import Tokenizer, configuration

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
FIRST_ORDINARY = 3
"""Ids 0, 1, 2 are unknown, begin and end; 3 to 258 the bytes, in llama2.c's own encoder without any look-up."""


def read_pieces(path: Path | str) -> list[tuple[bytes, float]]:
    """(piece, score) of every id. Format: int32 longest piece; then for each float32 score, int32 length, bytes.

    Raises UserError where the file is cut short or no such file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    damaged = UserError("this is no tokenizer.bin of llama2.c, or it was cut short", where=str(path),
                        fix="copy the file again")
    if len(data) < 4:
        raise damaged
    longest = struct.unpack_from("<i", data)[0]
    pieces, at = [], 4
    while at < len(data):
        if at + 8 > len(data):
            raise damaged
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= longest or at + length > len(data):
            raise damaged
        pieces.append((data[at:at + length], score))
        at += length
    if len(pieces) < FIRST_ORDINARY + 256:
        raise damaged
    return pieces


def load_llama2c(path: Path | str) -> Tokenizer:
    """The tokenizer of a llama2.c model: ids equal those of its `run.c`.

    run.c joins, again and again, the adjacent pair whose joined piece has the highest score. With merges ranked by the
    score of what they make, the `tokenizers` library does the same; characters that are no piece become bytes.
    """
    pieces = read_pieces(path)
    names: list[str] = [UNK, BOS, EOS] + [f"<0x{byte:02X}>" for byte in range(256)]
    try:
        names += [piece.decode().replace(" ", "▁") for piece, _ in pieces[len(names):]]
    except UnicodeDecodeError as error:
        raise UserError("a piece is not UTF-8", where=str(path)) from error
    vocab: dict[str, int] = {}
    for i, name in enumerate(names):
        # A piece that is there twice is found by its first id; the other becomes unreachable, as it should.
        vocab[name if name not in vocab else f"<duplicate {i}>"] = i
    merges = [
        (-pieces[i][1], i, at, (name[:at], name[at:]))
        for name, i in vocab.items() if i >= FIRST_ORDINARY + 256
        for at in range(1, len(name)) if name[:at] in vocab and name[at:] in vocab
    ]
    backend = tokenizers.Tokenizer(models.BPE(
        vocab=vocab, merges=[pair for *_, pair in sorted(merges)], unk_token=UNK, byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in (UNK, BOS, EOS)])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)])
    return Tokenizer(backend.to_str(), configuration(bos_token=BOS, eos_token=EOS, unk_token=UNK, chat_template=None))
