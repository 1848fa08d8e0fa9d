"""The tokenizer room: text to token ids and back, and the words of a conversation.

In: a corpus (to train on), a public tokenizer folder, or the vocabulary of a GGUF or llama2.c file.
Out: a public tokenizer folder (`tokenizer.json`, `tokenizer_config.json` with the chat template), and
`Tokenizer`, the one class that training, evaluation, export and serving share.
May call: core, data.
"""

from gristmill.tokenizer.stage import TrainTokenizer
from gristmill.tokenizer.stream import StreamDecoder
from gristmill.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "TrainTokenizer"]
