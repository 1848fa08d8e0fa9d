"""The sentence about a gain, where the evidence is thin."""

from __future__ import annotations

import pytest

from gristmill.evaluation.gains import _gain

TABLE = {"task": "perplexity", "metric": "bits per byte", "unit": "bits/byte", "better": "lower",
         "rows": [{"model": "base", "value": 0.7}], "baselines": [{"name": "5-gram", "value": 2.1}]}


@pytest.mark.parametrize(("documents", "p_value", "improved", "said"), [
    (5, 0.0625, False, "5 documents allow no smaller p"),
    (5, 0.3, False, None),
    (12, 0.0625, False, None),
    (12, 0.001, True, "clearly"),
])
def test_too_few_documents_for_any_proof_are_named(documents, p_value, improved, said):
    compared = {"from": "5-gram", "to": "base", "difference": -1.4, "low": -1.5, "high": -1.2, "p_value": p_value,
                "n": documents}
    gain = _gain("pretrain", TABLE, compared)
    assert gain["improved"] is improved
    assert ("allow no smaller p" in gain["text"]) == (said is not None and "allow" in said)
    if said:
        assert said in gain["text"]
