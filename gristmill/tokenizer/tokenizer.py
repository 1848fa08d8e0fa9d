"""The tokenizer: text to token ids and back, special tokens, conversations; ours and any public one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_atomic, write_json
from gristmill.core.hashing import digest
from gristmill.tokenizer import chat
from gristmill.tokenizer.alphabet import bytes_of
from gristmill.tokenizer.fast import FastEncoder, Ids, open_fast
from gristmill.tokenizer.limits import LARGEST_ID, parse, read_text
from gristmill.tokenizer.losses import losses
from gristmill.tokenizer.splits import split_named

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a saved tokenizer: what a model folder must carry beside its weights."""

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
FAST_CHARACTERS = 1 << 19
"""From this much text in one batch on, opening the fast encoder (up to a second) is worth it."""

SENTINEL = re.compile(r"<extra_id_(\d+)>")
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A tokenizer over the `tokenizers` library, with its special tokens and its chat template.

    By default text is only text: `encode("<|eos|>")` gives the pieces of those seven characters, never the
    special token. `special=True` is for text that we wrote ourselves.
    """

    def __init__(self, specification: str, config: Mapping[str, Any]) -> None:
        """specification: content of `tokenizer.json`. config: content of `tokenizer_config.json`."""
        parsed = parse(specification, "tokenizer.json")
        try:
            self._text = tokenizers.Tokenizer.from_str(specification)
            self._marked = tokenizers.Tokenizer.from_str(specification)
        except BaseException as error:  # a panic in the library derives from BaseException
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise UserError(f"tokenizer.json cannot be read ({error})") from error
        self.config = dict(config)
        named = {role: content_of(self.config.get(role)) for role in ROLES}
        for backend in (self._text, self._marked):
            backend.no_truncation()
            backend.no_padding()
            # Adding a token anew would forget that it takes the space before it (RoBERTa's <mask>).
            known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
            missing = [t for t in named.values()
                       if t is not None and t not in known and backend.token_to_id(t) is not None]
            backend.add_special_tokens(sorted(set(missing)))
        self._text.encode_special_tokens = True
        self.special_tokens: dict[str, str] = {role: text for role, text in named.items() if text is not None}
        added = self._text.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._added = {i: token.content for i, token in added.items()}
        self._vocabulary = self._text.get_vocab(with_added_tokens=True)
        largest = max(self._vocabulary.values(), default=-1)
        if not 0 <= largest <= LARGEST_ID:
            raise UserError(f"tokenizer.json holds no tokens, or an id above {LARGEST_ID}")
        self.vocab_size: int = largest + 1
        self.bos_id, self.pad_id, self.unk_id = (self._id(r) for r in ("bos_token", "pad_token", "unk_token"))
        self.mask_id = self._id("mask_token")
        """What stands for a hidden token (masked language models), or None."""
        mask = None if self.mask_id is None else added.get(self.mask_id)
        self.mask_takes_space = (False, False) if mask is None else (bool(mask.lstrip), bool(mask.rstrip))
        """Whether the mask token swallows the white space before and after it, as RoBERTa's does before it."""
        eos = self._id("eos_token")
        eos = eos if eos is not None else self._first_known("</s>", "<|endoftext|>", "[SEP]")
        if eos is None:
            raise UserError("this tokenizer names no end-of-sequence token",
                            fix="add \"eos_token\" to its tokenizer_config.json")
        self.eos_id: int = eos
        self.special_tokens.setdefault("eos_token", self._added.get(eos, ""))
        self.losses: list[str] = losses(parsed)
        """What text may lose on its way to ids and back; empty where every text comes back exactly."""
        parts = _component_types(parsed.get("decoder"))
        self._byte_level = "ByteLevel" in parts
        self._sentencepiece = not self._byte_level and bool({"ByteFallback", "Metaspace"} & parts)
        self._drops_first_space = self._sentencepiece and bool({"Strip", "Metaspace"} & parts)
        self._bytes: dict[int, bytes] = {}

    # Opening and saving

    @classmethod
    def load(cls, folder: Path | str, *, split: str | None = None) -> Tokenizer:
        """Open any folder with `tokenizer.json` (and tokenizer_config.json, chat_template.jinja where there are).

        Where there is none, the older files are read: `vocab.txt` (WordPiece), `vocab.json` with `merges.txt`, a
        SentencePiece `.model`, `.tiktoken` ranks; each of them, and a tokenizer.json, may also be named itself.
        split: the pre-tokenizer (splits.SPLITS) of a file that does not tell its own.
        Raises UserError where there is no readable tokenizer.
        """
        folder = Path(folder)
        if folder.name == "tokenizer.json" and folder.is_file():
            folder = folder.parent
        path = folder / "tokenizer.json"
        if not path.is_file():
            from gristmill.tokenizer.public import open_public

            return open_public(folder, split)
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        specials = folder / "special_tokens_map.json"
        if specials.exists():
            config = {**{k: v for k, v in read_json(specials).items() if k in ROLES and not config.get(k)},
                      **{k: v for k, v in config.items() if k not in ROLES or v}}
        if (folder / "chat_template.jinja").exists():
            config["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        try:
            return cls(read_text(path), config)
        except UserError as error:
            raise UserError(error.what, where=str(path), fix=error.fix) from error

    @classmethod
    def from_bpe(
        cls,
        vocab: Sequence[str],
        merges: Sequence[str],
        *,
        split: str,
        special: Iterable[str],
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        unk: str | None = None,
        chat_template: str | None = None,
        ignore_merges: bool = False,
    ) -> Tokenizer:
        """Make a byte-level BPE tokenizer from its parts, as a GGUF file holds them.

        vocab: the piece of every id, in GPT-2's byte alphabet. merges: "left right", best first.
        split: name of the pre-tokenizer, see splits.SPLITS. special: the pieces that are control tokens.
        """
        pairs = [tuple(merge.split(" ")) for merge in merges]
        if any(len(pair) != 2 for pair in pairs):
            raise UserError("a merge does not consist of two pieces")
        model = models.BPE(
            vocab={piece: i for i, piece in enumerate(vocab)}, merges=pairs, ignore_merges=ignore_merges)  # type: ignore[arg-type]
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = split_named(split)
        backend.decoder = decoders.ByteLevel()
        known = set(vocab)
        unknown = [t for t in special if t not in known]
        if unknown:
            raise UserError(f"the special token {unknown[0]!r} is not in the vocabulary")
        control = set(special)
        backend.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False)
                                    for t in vocab if t in control])
        return cls(backend.to_str(), configuration(
            bos_token=bos, eos_token=eos, pad_token=pad, unk_token=unk, chat_template=chat_template))

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`."""
        folder = Path(folder)
        write_atomic(folder / "tokenizer.json", self._marked.to_str(pretty=True) + "\n")
        write_json(folder / "tokenizer_config.json", self.config)
        write_json(folder / "special_tokens_map.json", self.special_tokens)

    @property
    def specification(self) -> str:
        """The content of its tokenizer.json."""
        return self._marked.to_str()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides what ids a text or a conversation gets."""
        return digest({"tokenizer": json.loads(self._marked.to_str()), "special": self.special_tokens,
                       "chat_template": self.chat_template.source if self.chat_template else None})

    # Text

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS or EOS.

        special: whether the names of special tokens inside `text` become those tokens. Never for foreign text.
        Raises UserError for text that is not valid Unicode (a lone surrogate).
        """
        backend = self._marked if special else self._text
        try:
            return backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise _not_text(text) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` gives them, on all cores; `encode_flat` is many times faster."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Like `encode_batch`, as arrays (tokens,) of uint32."""
        ids, lengths = self.encode_flat(texts)
        ends = np.cumsum(lengths).tolist()
        return [ids[end - length:end] for end, length in zip(ends, lengths.tolist(), strict=True)]

    def encode_flat(self, texts: Sequence[str | bytes]) -> Ids:
        """Token ids of all texts one after another (tokens,) uint32, and how many each text has (texts,) int64.

        Texts may be given as UTF-8. The ids are those of `encode`; see `fast` for when the fast encoder finds them.
        """
        texts = list(texts)
        try:
            fast = self._fast[0] if "_fast" in self.__dict__ or sum(map(len, texts)) >= FAST_CHARACTERS else None
            return self._encode_slowly(texts) if fast is None else fast.encode(texts)
        except (TypeError, AttributeError, UnicodeError) as error:
            raise _not_text(*texts) from error

    def _encode_slowly(self, texts: Sequence[str | bytes]) -> Ids:
        plain = [text.decode() if isinstance(text, bytes) else text for text in texts]
        found = [encoding.ids for encoding in self._text.encode_batch_fast(plain, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        flat = itertools.chain.from_iterable(found)
        return np.fromiter(flat, dtype=np.uint32, count=int(lengths.sum())), lengths

    @cached_property
    def _fast(self) -> tuple[FastEncoder | None, str]:
        return open_fast(json.loads(self._text.to_str()), self._encode_slowly)

    @property
    def engine(self) -> str:
        """What encodes large batches: gigatoken, or tokenizers and why."""
        return self._fast[1] if self._fast[0] is not None else f"tokenizers ({self._fast[1]})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fast"}

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of `text` as the beginning of a document: what the public tokenizer gives by default.

        That is `[bos]` + tokens for our own tokenizers, and just the tokens for those that put no BOS in front.
        """
        return self.prefix_ids + self.encode(text)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. Raises UserError for an id out of range."""
        ids = [int(i) for i in ids]
        self._check(ids)
        if not self._sentencepiece:
            return self._marked.decode(ids, skip_special_tokens=skip_special)
        text = self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")
        return text[1:] if self._drops_first_space and text.startswith(" ") else text

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The exact bytes of `ids`, which need not be UTF-8."""
        shown = self.token_bytes if skip_special else self._shown_bytes
        return b"".join(shown(i) for i in ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; special tokens stand for none."""
        if token in self.special_ids:
            return b""
        return self._shown_bytes(token)

    def _shown_bytes(self, token: int) -> bytes:
        known = self._bytes.get(token)
        if known is None:
            self._check([token])
            known = self._bytes[token] = self._piece_bytes(token)
        return known

    def _piece_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._marked.id_to_token(token)
        if piece is None:  # a hole in the vocabulary
            return b""
        if self._byte_level:
            return bytes_of(piece)
        byte = BYTE_PIECE.fullmatch(piece) if self._sentencepiece else None
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()

    def _check(self, ids: Sequence[int]) -> None:
        if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise UserError(f"token id {wrong} is outside the vocabulary of {self.vocab_size}",
                            fix="use the tokenizer that the model was trained with")

    # Special tokens

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact name, or None."""
        return self._vocabulary.get(token)

    def token_name(self, token: int) -> str:
        """The token as the vocabulary writes it (special tokens by their name)."""
        self._check([token])
        return self._marked.id_to_token(token) or ""

    @cached_property
    def prefix_ids(self) -> list[int]:
        """The ids that the public tokenizer puts before every text by default (`[bos]`, or nothing)."""
        bare = self._marked.encode("a", add_special_tokens=False).ids
        whole = self._marked.encode("a", add_special_tokens=True).ids
        return whole[: next((i for i in range(len(whole)) if whole[i:i + len(bare)] == bare), 0)]

    @cached_property
    def document_start_id(self) -> int | None:
        """The token before a document: what the public tokenizer puts there, else a separator, else BOS."""
        if self.prefix_ids:
            return self.prefix_ids[-1]
        separator = self._first_known("<|endoftext|>")
        return separator if separator is not None else self.bos_id

    @cached_property
    def document_end_id(self) -> int:
        """The token after the last of a document. EOS, unless EOS is the token that closes a turn."""
        separator = self._first_known("<|endoftext|>")
        return separator if separator is not None and self.eos_id == self.end_of_turn_id else self.eos_id

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The token with which the chat template closes an answer; None without template or without such a token."""
        return chat.find_end_of_turn(self) if self.chat_template else None

    @cached_property
    def sentinel_ids(self) -> list[int]:
        """The tokens `<extra_id_0>`, `<extra_id_1>`, ... that stand for cut-out spans (T5), in this order."""
        found = {int(match[1]): i for i, name in self._added.items() if (match := SENTINEL.fullmatch(name))}
        return [found[number] for number in sorted(found)]

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens at which an answer ends: EOS and the end of a turn."""
        return frozenset(i for i in (self.eos_id, self.end_of_turn_id) if i is not None)

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._text.token_to_id(token)

    def _first_known(self, *tokens: str) -> int | None:
        return next((i for i in map(self.token_id, tokens) if i is not None), None)

    # Conversations

    @cached_property
    def chat_template(self) -> chat.ChatTemplate | None:
        """The chat template, or None. Rendered in a sandbox with limits."""
        source = self.config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = {item["name"]: item["template"] for item in source}.get("default")
        return chat.ChatTemplate(source, self.special_tokens) if source else None

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """The conversation as the text that the model sees. messages: {"role": ..., "content": ...}."""
        return chat.template_of(self).render(chat.checked(messages), add_generation_prompt=add_generation_prompt)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> list[int]:
        """Token ids of a conversation. Special tokens come from the template alone, never from a message."""
        return chat.encode(self, messages, add_generation_prompt=add_generation_prompt)

    def encode_chat_with_mask(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and a mask: 1 on what the assistant says and the token that ends its turn.

        Up to every answer the ids equal `encode_chat(messages before it, add_generation_prompt=True)`: training sees
        exactly what serving will see. Raises UserError where the template does not allow that.
        """
        return chat.encode_with_mask(self, messages)


def configuration(*, chat_template: str | None, **roles: str | None) -> dict[str, Any]:
    """The content of a `tokenizer_config.json` that any version of transformers opens with the generic class."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    config.update({role: token for role, token in roles.items() if token is not None})
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config


def content_of(token: Any) -> str | None:
    """A special token as transformers writes it: text, or a mapping with its text under `content`."""
    return token.get("content") if isinstance(token, Mapping) else token


def _component_types(part: Any) -> set[str]:
    """The `type` of a component of tokenizer.json and of all components inside it."""
    if isinstance(part, dict):
        own = {part["type"]} if isinstance(part.get("type"), str) else set()
        return own.union(*(_component_types(value) for value in part.values()))
    return set().union(*(_component_types(value) for value in part)) if isinstance(part, list) else set()


def _not_text(*texts: Any) -> UserError:
    for text in texts:
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                return UserError("the bytes are no UTF-8", fix="decode them with errors=\"replace\" first")
        if not isinstance(text, str):
            return UserError(f"a {type(text).__name__} is no text", fix="give a str")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return UserError("the text holds a lone surrogate, which is no valid Unicode",
                             fix="decode the bytes with errors=\"replace\" first")
    return UserError("the text cannot be encoded")
