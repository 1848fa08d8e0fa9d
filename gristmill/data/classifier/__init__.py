"""A text classifier that anybody can train: quality, toxicity, topic, spam.

In: labelled texts (JSONL, Parquet, CSV, text files, corpora). Out: a folder with hashed n-gram weights, calibrated
probabilities, held-out measures and the words that speak most for each label. Also word lists learned from labelled
texts. `signals/learned.py` reads a trained one as a signal.
May call: core, and the rest of data.
"""
