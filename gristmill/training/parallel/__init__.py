"""Training on many devices: the axes along which work is shared out, and a plain model spread over them from outside.

In: a model and an objective that know of one process only, a `Layout`. Out: something that runs forward and backward
of an update's micro-batches with the losses and gradients of one process. `apply.py` is the one function that says in
which order the axes are applied; every axis is a file. Started by torchrun (`gristmill launch`).
"""

from gristmill.training.parallel.layout import Layout
from gristmill.training.parallel.world import World

__all__ = ["Layout", "World"]
