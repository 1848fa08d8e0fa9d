"""A gradient that breaks on its way back, for tests of what is said of it."""

import math

import torch


class InfiniteSlope(torch.autograd.Function):
    """Gives back what it gets, (any shape), and an infinite gradient of it."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf
