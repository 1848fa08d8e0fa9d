"""The tokenizer of llama2.c against a slow transcription of what its encoder does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokenizer.llama2c import load_llama2c, read_pieces
from tests.shared import DATA

MODEL = DATA / "model"
pytestmark = pytest.mark.skipif(not (MODEL / "tok512.bin").exists(), reason="needs shared/data/model")


@pytest.fixture(scope="module")
def tokenizer():
    return load_llama2c(MODEL / "tok512.bin")


def joined_by_score(text: str, pieces: list[tuple[bytes, float]]) -> list[int]:
    """Look up a leading space and every character (else its bytes), then join the best pair while there is one."""
    ids_of = {}
    for i, (piece, _) in enumerate(pieces):
        ids_of.setdefault(piece, i)
    ids = [ids_of[b" "]] if text else []
    for letter in text:
        encoded = letter.encode()
        ids += [ids_of[encoded]] if encoded in ids_of else [byte + 3 for byte in encoded]
    while True:
        best = None
        for i in range(len(ids) - 1):
            joined = ids_of.get(pieces[ids[i]][0] + pieces[ids[i + 1]][0])
            if joined is not None and (best is None or pieces[joined][1] > best[0]):
                best = (pieces[joined][1], joined, i)
        if best is None:
            return ids
        ids[best[2]:best[2] + 2] = [best[1]]


def test_golden_text(tokenizer):
    golden = json.loads((MODEL / "aidreams260K_golden.json").read_text())
    text = tokenizer.decode([tokenizer.bos_id, *golden["token_ids_after_bos"]], skip_special=True)
    assert len(text) > 160
    # The recorded output has one token more than the recorded ids.
    assert golden["stdout"].startswith(text)
    assert golden["stdout"].rstrip("\n")[len(text):] == "el"


@settings(max_examples=150, deadline=None)
@given(st.text(st.one_of(st.sampled_from(" abcdefghinorst.,éö日😀\n"), st.characters(codec="utf-8")), max_size=40))
def test_ids_equal_the_slow_encoder(text):
    tokenizer = load_llama2c(MODEL / "tok512.bin")
    # Our vocabulary writes a space as U+2581, as SentencePiece does: that character itself stands for a space.
    text = text.replace("▁", "_")
    expected = joined_by_score(text, read_pieces(MODEL / "tok512.bin"))
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(expected) == text


def test_ids_equal_the_slow_encoder_on_prose(tokenizer):
    text = json.loads((MODEL / "aidreams260K_golden.json").read_text())["stdout"]
    assert tokenizer.encode(text) == joined_by_score(text, read_pieces(MODEL / "tok512.bin"))


@pytest.mark.parametrize("cut", [0, 3, 9, 4000])
def test_a_file_cut_short_is_refused(tmp_path, cut):
    (tmp_path / "tokenizer.bin").write_bytes((MODEL / "tok512.bin").read_bytes()[:cut])
    with pytest.raises(UserError, match="cut short"):
        load_llama2c(tmp_path / "tokenizer.bin")
