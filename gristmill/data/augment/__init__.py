"""More training text from what there is: small edits, synonyms, swapped genders, and texts that a model rewrites.

In: the training documents of a corpus. Out: the same corpus with made documents beside them, each marked in its
metadata, with its original's cluster and split. Held-out documents are carried over as they are.
One file a method; `stage.py` is the stage `augment`, `rows.py` the same for JSONL and Parquet files.
May call: core, data. Models come in as `Writer`s (core/writer.py).
"""
