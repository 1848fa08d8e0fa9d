import gzip

import numpy as np
import pytest

from gristmill.core.errors import UserError
from gristmill.data.augment.vectors import neighbours, read_vectors

LINES = b"3 3\ncar 1 0 0\nauto 0.9 0.1 0\nbroken 1 2\nnan nan 0 1\nword x y z\nriver 0 0 1\n"


def test_reading(tmp_path):
    (tmp_path / "v.txt").write_bytes(LINES)
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(LINES.split(b"\n", 1)[1]))
    for name in ("v.txt", "glove.txt.gz"):
        words, vectors = read_vectors(tmp_path / name, lambda word: True, 100)
        assert words == ["car", "auto", "river"]
        assert np.allclose(vectors, [[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]])
    assert read_vectors(tmp_path / "v.txt", lambda word: word != "car", 1)[0] == ["auto"]
    with pytest.raises(UserError, match="not one vector"):
        read_vectors(tmp_path / "v.txt", lambda word: False, 1)
    with pytest.raises(UserError, match="missing"):
        read_vectors(tmp_path / "none", lambda word: True, 1)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LINES)[:-12])
    with pytest.raises(UserError, match="damaged"):
        read_vectors(tmp_path / "cut.gz", lambda word: True, 100)


def test_neighbours_equal_the_slow_way():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(700, 6)).astype(np.float32) + 3  # more than one block, a mean to take off
    words = [f"w{i}" for i in range(700)]
    found = neighbours(words, vectors, 4, 0.5)
    centred = vectors - vectors.mean(axis=0)
    for i in range(0, 700, 37):
        cosine = [float(centred[i] @ centred[j] / np.linalg.norm(centred[i]) / np.linalg.norm(centred[j]))
                  if i != j else -2.0 for j in range(700)]
        wanted = [j for j in sorted(range(700), key=lambda j: -cosine[j])[:4] if cosine[j] >= 0.5]
        assert found.get(words[i], []) == [words[j] for j in wanted]


def test_few_words():
    assert neighbours(["a"], np.ones((1, 3), np.float32), 5, 0.1) == {}
    assert neighbours(["a", "b"], np.array([[1, 0], [0, 1]], np.float32), 5, 0.1) == {}
