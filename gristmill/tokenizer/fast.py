"""The fast encoder of plain text: gigatoken, wherever it gives exactly the ids of the `tokenizers` library.

The rule, in this order; whatever does not meet it is encoded by `tokenizers`, which defines the ids:

1. gigatoken is installed in a version that was tested here (`TESTED`).
2. The tokenizer is byte-level BPE without dropout, affixes or byte fallback, not normalised (or NFC), and splits text
   by one of the patterns in `PATTERNS` and by nothing else.
3. A probe of many scripts, white space and odd characters gives the same ids; both encode it once, at opening.
4. Text with a character that the two know from different versions of Unicode (`UNSETTLED`) goes to `tokenizers`, and
   so does text that NFC would change.

gigatoken 0.10.0 remembers every piece of text it has seen, without a limit. After every `BYTES_PER_ENGINE` of text a
new one is opened if the process has grown by more than `GROWTH` while the last one encoded: prose repeats its words and
keeps what is remembered, text without repetitions does not. It uses RAYON_NUM_THREADS threads (all cores where it is
unset), and one inside a worker process.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from gristmill.tokenizer.splits import CL100K, GPT2, IDENTIFIERS, SINGLE_DIGITS, TRIPLE_DIGITS

TESTED = ("0.10.",)
"""Versions of gigatoken whose ids were compared with those of `tokenizers`, among others on every character."""

PATTERNS = frozenset({SINGLE_DIGITS, TRIPLE_DIGITS, CL100K, IDENTIFIERS, GPT2})

BYTES_PER_ENGINE = 1 << 26
"""Text, in bytes, after which the memory of the process is looked at: what is remembered of so much takes 0.75 GB
(measured) where no piece of text ever comes twice, far less on prose and code."""

GROWTH = 1 << 28
"""Bytes that the process may have grown by while it encoded before the engine and all that it remembers are dropped."""

PARALLEL_BYTES = 1 << 16
"""A batch with less text is encoded on the calling thread."""

# Characters of Unicode 17, which gigatoken 0.10 knows as letters, marks or numbers and tokenizers 0.23 as unassigned.
UNSETTLED = re.compile(
    "[\u088f\u0c5c\u0cdc\u1acf-\u1add\u1ae0-\u1aeb\ua7ce-\ua7cf\ua7d2\ua7d4\ua7f1\U00010940-\U00010959"
    "\U00010ec5-\U00010ec7\U00010efa-\U00010efb\U00011b60-\U00011b67\U00011db0-\U00011ddb\U00011de0-\U00011de9"
    "\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3\U00016ff2-\U00016ff6\U000187f8-\U000187ff\U00018d09-\U00018d1e"
    "\U00018d80-\U00018df2\U0001e6c0-\U0001e6ff\U0002b73a-\U0002b73f\U0002cea2-\U0002cead\U000323b0-\U00033479]"
)
# The first bytes, in UTF-8, of what UNSETTLED matches: searching for them costs next to nothing.
_SIGNS = (b"\xe0\xa2\x8f", b"\xe0\xb1\x9c", b"\xe0\xb3\x9c", b"\xe1\xab", b"\xea\x9f", b"\xf0\x90\xa5", b"\xf0\x90\xbb",
          b"\xf0\x91\xad", b"\xf0\x91\xb6", b"\xf0\x91\xb7", b"\xf0\x96\xba", b"\xf0\x96\xbb", b"\xf0\x96\xbf",
          b"\xf0\x98\x9f", b"\xf0\x98\xb4", b"\xf0\x98\xb6", b"\xf0\x98\xb7", b"\xf0\x9e\x9b", b"\xf0\xab\x9c",
          b"\xf0\xac\xba", b"\xf0\xb2", b"\xf0\xb3")

PROBE = (
    "def f(x):\n\treturn  {'a': 1.50e-3}  # it's, IT'S, we'll've\r\n\r\n   if x<|eos|>==0xFF: pass \n\n\n",
    "Žluťoučký kůň; naïve façade — “quoted” … 1234567890 ½ Ⅷ ١٢٣ x² HTTPServer camelCase snake_case",
    "中文文本，日本語テキスト。한국어 العربية हिन्दी ไทย עברית ελληνικά русский",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u00a0\u3000\u2028\u200b\ufeff\x00\x1f\x7f\x85 \U0010ffff",
    "", " ", "\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 77, "\t\t\t  \t x", "'" * 9 + "s",
)

PAGE = mmap.PAGESIZE

Ids = tuple[np.ndarray, np.ndarray]
"""Token ids of all texts, one after another (tokens,) uint32, and how many belong to each text (texts,) int64."""

Slow = Callable[[Sequence[str | bytes]], Ids]
"""Encodes texts with the library, special tokens as plain text."""


class FastEncoder:
    """Encodes batches of text with gigatoken; made by `open_fast` only."""

    def __init__(self, specification: str, slow: Slow, *, nfc: bool = False) -> None:
        """specification: tokenizer.json without special tokens. slow: the same ids from the library.
        nfc: whether it normalises text; what that would change goes to the library."""
        self._specification, self._slow, self._nfc = specification, slow, nfc
        self._engine: Any = None
        self._left = 0
        self._growth = 0.0

    def encode(self, texts: Sequence[str | bytes]) -> Ids:
        """Ids of the texts (or of their UTF-8), equal to those of the library.

        Raises UnicodeError for a lone surrogate and for bytes that are no UTF-8, which gigatoken itself would take.
        """
        data = [text.encode() if isinstance(text, str) else _valid(text) for text in texts]
        odd = [i for i, one in enumerate(data) if _unsettled(one) or (self._nfc and _composes(one))]
        if not odd:
            return self._run(data)
        rest, rest_lengths = self._slow([data[i] for i in odd])
        for i in odd:
            data[i] = b""
        ids, lengths = self._run(data)
        parts, whole = np.split(ids, np.cumsum(lengths)[:-1]), lengths.copy()
        for i, part in zip(odd, np.split(rest, np.cumsum(rest_lengths)[:-1]), strict=True):
            parts[i], whole[i] = part, len(part)
        return np.concatenate(parts), whole

    def _run(self, data: list[bytes]) -> Ids:
        size = sum(map(len, data))
        engine = self._engine
        if engine is None or (self._left <= 0 and self._growth > GROWTH):
            import gigatoken

            engine = self._engine = None  # before the new one is there: never two of them in memory
            engine = self._engine = gigatoken.Tokenizer.from_json(self._specification)
            self._growth = 0.0
        if self._left <= 0:
            self._left = BYTES_PER_ENGINE
        self._left -= size
        before = resident_bytes() or 0
        found = engine.encode_batch(data, parallel=None if size >= PARALLEL_BYTES else False)
        after = resident_bytes()
        self._growth += math.inf if after is None else max(0, after - before)
        layout = getattr(found, "layout", None)
        if layout is None:  # without the package awkward it is a list of arrays
            lengths = np.array([len(one) for one in found], dtype=np.int64)
            return (np.concatenate(found) if len(found) else np.empty(0, np.uint32)).astype(np.uint32), lengths
        offsets = np.asarray(layout.offsets.data, dtype=np.int64)
        return np.asarray(layout.content.data)[offsets[0]:offsets[-1]], np.diff(offsets)


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return None


def _valid(data: bytes) -> bytes:
    if not data.isascii():
        data.decode()
    return data


def _unsettled(data: bytes) -> bool:
    """Whether the text holds a character of UNSETTLED. Only what begins with one of four bytes can."""
    if data.isascii() or not (b"\xe0" in data or b"\xe1\xab" in data or b"\xea\x9f" in data or b"\xf0" in data):
        return False
    return any(sign in data for sign in _SIGNS) and UNSETTLED.search(data.decode()) is not None


def _composes(data: bytes) -> bool:
    """Whether NFC could change the text; the Indic scripts that Unicode 16 and 17 added compose too."""
    if data.isascii():
        return False
    return b"\xf0\x91" in data or b"\xf0\x96" in data or not unicodedata.is_normalized("NFC", data.decode())


def open_fast(specification: dict[str, Any], slow: Slow) -> tuple[FastEncoder | None, str]:
    """The fast encoder of a parsed `tokenizer.json`, and "gigatoken"; or None, and why it cannot be used.

    Text is encoded as if there were no special
    tokens; other added tokens (`<tool_call>`) are found in it, as the library does it.
    """
    if (why := _refused(specification)) is not None:
        return None, why
    try:
        found = version("gigatoken")
    except PackageNotFoundError:
        return None, "gigatoken is not installed"
    if not found.startswith(TESTED):
        return None, f"gigatoken {found} was not tested here (tested: {', '.join(TESTED)}x)"
    plain = {**specification, "post_processor": None,
             "added_tokens": [t for t in specification.get("added_tokens") or [] if not t.get("special")]}
    try:
        encoder = FastEncoder(json.dumps(plain, ensure_ascii=False), slow, nfc=plain.get("normalizer") is not None)
        ours, theirs = encoder.encode(PROBE), slow(PROBE)
    except Exception as error:
        return None, f"gigatoken refuses this tokenizer ({str(error).splitlines()[0] if str(error) else error!r})"
    if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        return None, "gigatoken gives other ids for a probe of text"
    return encoder, "gigatoken"


def _refused(specification: dict[str, Any]) -> str | None:
    """Why this tokenizer is not of a shape that gigatoken is known to read as the library does, or None."""
    model = specification.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        return f"the model is {model.get('type', 'unknown')}, not BPE"
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "the model has dropout, or a prefix or suffix for pieces of words"
    if model.get("byte_fallback"):
        return "the model falls back to byte tokens (SentencePiece)"
    if len(model.get("vocab") or {}) < 256:
        return "the vocabulary does not hold all bytes"
    normalizer = specification.get("normalizer")
    if normalizer is not None and normalizer != {"type": "NFC"}:
        return "the text is normalised in another way than NFC"
    for token in specification.get("added_tokens") or []:
        if not token.get("special") and (token.get("lstrip") or token.get("rstrip") or token.get("single_word")):
            return "an added token takes the white space beside it"
    known = split_pattern(specification.get("pre_tokenizer")) in PATTERNS
    return None if known else "its pattern of splitting is another"


def split_pattern(part: Any) -> str | None:
    """The one pattern by which a byte-level `pre_tokenizer` splits text; None where it does more or something else."""
    if not isinstance(part, dict):
        return None
    if part.get("type") == "ByteLevel":
        return GPT2 if part.get("use_regex", True) and not part.get("add_prefix_space", True) else None
    parts = part.get("pretokenizers") if part.get("type") == "Sequence" else None
    if not isinstance(parts, list) or not all(isinstance(one, dict) for one in parts):
        return None
    if len(parts) == 1:
        return split_pattern(parts[0])
    if len(parts) != 2 or parts[0].get("type") != "Split" or parts[1].get("type") != "ByteLevel":
        return None
    split, level = parts
    pattern = (split.get("pattern") or {}).get("Regex")
    plain = split.get("behavior") == "Isolated" and not split.get("invert") and not level.get("use_regex", True) \
        and not level.get("add_prefix_space", True)
    return pattern if plain else None
