"""Planning: what a model costs before a token is trained: size, FLOPs, memory, time, money, energy, carbon.

In: a config of `models`, and tables of hardware, prices and grids (`tables/`, each row with its source and date).
Out: plans, plain dataclasses with `as_json`; exact where arithmetic allows, low / expected / high elsewhere.
Nothing is trained or allocated here: models lie on the meta device, and a measurement is passed in as a function.
May import: core, data, tokenizer, tokens, models.
"""
