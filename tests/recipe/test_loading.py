"""YAML as read: values, lines, and what is refused."""

import pytest

from gristmill.core.errors import UserError
from gristmill.recipe.loading import MAX_BYTES, parse_yaml, read_yaml


def value(text):
    return parse_yaml(text, "r.yaml").value


@pytest.mark.parametrize(("text", "expected"), [
    ("1e-4", 1e-4), ("5e6", 5e6), (".5", 0.5), ("12", 12), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("true", True),
    ("False", False), ("null", None), ("~", None), ("''", ""), ("'5'", "5"), ("yes", "yes"), ("on", "on"),
    ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("!!str 5", "5"), ("a@1", "a@1"),
    ("[1, two]", [1, "two"]), ("{a: {b: 1}}", {"a": {"b": 1}}),
])
def test_scalars_follow_yaml_1_2(text, expected):
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_keys_are_text_whatever_they_look_like():
    assert value("on: 1\n1: 2\nnull: 3\n") == {"on": 1, "1": 2, "null": 3}


def test_positions_are_the_lines_of_the_keys():
    document = parse_yaml("name: x\nstages:\n  a:\n    uses: data\n    sources:\n      - kind: k\n", "r.yaml")
    assert document.where(("stages", "a", "uses")) == "r.yaml:4"
    assert document.where(("stages", "a", "sources", 0, "kind")) == "r.yaml:6"
    assert document.where(("stages", "a", "missing")) == "r.yaml:3"


@pytest.mark.parametrize(("text", "line", "words"), [
    ("a: 1\na: 2\n", 2, "`a` stands twice (first on line 1)"),
    ("a:\n\tb: 1\n", 2, "spaces, not tabs"),
    ("a: 1\n---\nb: 2\n", 2, "one recipe in a file"),
    ("a: b: c\n", 1, "in quotes"),
    ("a: !!python/object/apply:os.system [x]\n", 1, "tag `!!python/object/apply:os.system` is not allowed"),
    ("a: !thing 3\n", 1, "tag `!thing`"),
    ("a: 010\n", 1, "write 10 for the number or \"010\" for the text"),
    ("a: .nan\n", 1, "not a finite number"),
    ("a: 1e999\n", 1, "too large"),
    ("a: &x [1]\nb: *y\n", 2, "undefined alias"),
    ("a: &x {b: 1}\nc: {<<: *x}\n", 2, "merge keys"),
    ("a: &x [*x]\n", 1, "contains itself"),
    ("? [1, 2]\n: 3\n", 1, "a key must be plain text"),
    ("a: [1, 2\n", 2, "not valid YAML"),
])
def test_what_is_refused_says_where_and_how(text, line, words):
    with pytest.raises(UserError) as error:
        value(text)
    assert f"r.yaml:{line}" in str(error.value)
    assert words in str(error.value)


def test_an_alias_bomb_is_refused_quickly():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(UserError, match="aliases multiply"):
        value("\n".join(lines))


def test_shared_values_through_aliases_work():
    assert value("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


def test_deep_nesting_is_refused():
    with pytest.raises(UserError, match="nested too deep"):
        value("[" * 5000 + "]" * 5000)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "there.yaml").write_text("name: x")
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nd: caf\xe9\n")
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    for name, words in [("gone.yaml", "does not exist"), ("latin.yaml", "latin.yaml:2: byte 14 is not UTF-8"),
                        ("big.yaml", "too large"), ("empty.yaml", "is empty"), ("", "is a folder")]:
        with pytest.raises(UserError) as error:
            read_yaml(tmp_path / name)
        assert words in str(error.value)
    with pytest.raises(UserError, match=r"files there: big.yaml, empty.yaml, latin.yaml, there.yaml"):
        read_yaml(tmp_path / "gone.yaml")


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(tmp_path / "r.yaml").value == {"name": "x"}
