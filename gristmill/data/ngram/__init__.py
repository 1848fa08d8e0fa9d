"""How likely a text is under an n-gram model of the user's good text: perplexity and bits per byte.

In: texts (files, corpora). Out: a folder of memory-mappable arrays, and the percentiles of a reference set, by which
texts are sorted into head, middle and tail. `signals/learned.py` reads a trained model as a signal.
May call: core, and the rest of data.
"""
