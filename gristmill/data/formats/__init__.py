"""The formats that raw text comes in: how their bytes are read, safely and piece by piece.

In: streams and bytes of strangers. Out: records, members, pages, plain text. Every size, depth and time is bounded, by
constants that say why; nothing is executed, unpickled, expanded or fetched. Which of this becomes a document is the
matter of `sources/`. Uses `core`, `data/inputs.py` and `data/compression.py`.
"""
