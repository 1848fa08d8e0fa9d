"""Checkpoints: everything that a run needs to go on as if nothing had happened, on as many processes or another number.

A checkpoint is a folder `step-N` of safetensors, an index of their pieces, and `state.json`, which has the checksums of
the others and is written last. It is found whole or not at all.
"""

from gristmill.training.checkpoints.checkpoints import Checkpoints, Found

__all__ = ["Checkpoints", "Found"]
