"""Flex attention inside of what is compiled, as a GPU runs it: masks are one kernel, not a way out of the graph."""

from __future__ import annotations

import pytest
import torch

from gristmill.core.compiler import compiler_problem
from gristmill.models.layers.attention import reference
from gristmill.models.layers.flex import flex
from gristmill.models.layers.masks import Pattern


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
@pytest.mark.parametrize("packed", [False, True])
def test_every_pattern_compiles_in_one_graph(packed):
    """torch 2.11 refuses a mask that gives its positions an axis; so forward only, which a CPU has, is enough."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 256, 16, generator=generator) for _ in range(3))
    documents = torch.arange(256).expand(2, -1) // 100 if packed else None
    pattern = Pattern(window=2, dilation=2, stride=8, global_tokens=1, block=4)

    def run(q, k, v, documents):
        return flex(q, k, v, documents, pattern=pattern, first=0)

    with torch.no_grad():
        found = torch.compile(run, fullgraph=True)(q, k, v, documents)
        torch.testing.assert_close(found, reference(q, k, v, documents, pattern=pattern), rtol=1e-3, atol=1e-4)
