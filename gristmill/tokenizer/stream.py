"""Text from a stream of token ids, never half a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns ids, one at a time, into text that only ever grows by whole characters.

    All pushes and the flush together equal `tokenizer.decode(ids, skip_special=skip_special)`.
    By default special tokens show nothing, as a reader wants it.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self.tokenizer, self.skip_special = tokenizer, skip_special
        self._bytes = tokenizer.token_bytes if skip_special else tokenizer._shown_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = tokenizer._drops_first_space
        self._by_bytes = tokenizer._byte_level or tokenizer._sentencepiece
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        if self._by_bytes:
            return self._text(self._utf8.decode(self._bytes(token)))
        return self._whole(token)

    def flush(self) -> str:
        """What is left: an unfinished character becomes U+FFFD. The decoder then starts anew."""
        if self._by_bytes:
            rest = self._text(self._utf8.decode(b"", final=True))
        else:
            rest = self.tokenizer.decode(self._ids, skip_special=self.skip_special)[len(self._shown):]
        self.__init__(self.tokenizer, skip_special=self.skip_special)  # type: ignore[misc]
        return rest

    def _text(self, text: str) -> str:
        if self._first and text:
            self._first = False
            return text.removeprefix(" ")
        return text

    def _whole(self, token: int) -> str:
        """Tokenizers whose text is not a plain sequence of bytes (WordPiece): decode all, show what is settled."""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids, skip_special=self.skip_special)
        settled = text.rstrip("\ufffd")
        if not settled.startswith(self._shown):
            return ""
        delta, self._shown = settled[len(self._shown):], settled
        return delta
