import ast
from pathlib import Path

import pytest

from gristmill.data.python_code import functions
from gristmill.data.sources.python_stdlib import stdlib_folder

SOURCE = '''\
import os

@decorate
def outer(a, b: int = 2, *args,
          key="x", **rest) -> str:
    """
    Say it.

    More here.
    """
    # why
    @inner_decorator
    def inner():
        return 1
    return a  # end

class Box:
    async def get(self):
        "One line"
        text = """
keep
    this"""
        return text

    def bare(self): pass
    def only_documented(self):
        """Nothing else."""
\tdef = 1
'''.replace("\tdef = 1\n", "")


def test_what_is_read() -> None:
    found = {f.qualified_name: f for f in functions(SOURCE)}
    assert list(found) == ["outer", "outer.<locals>.inner", "Box.get", "Box.only_documented"]
    outer = found["outer"]
    assert outer.signature == "def outer(a, b: int=2, *args, key='x', **rest) -> str:"
    assert (outer.name, outer.line) == ("outer", 4)
    assert outer.docstring == "Say it.\n\nMore here."
    assert outer.summary == "Say it."
    assert outer.body == "    # why\n    @inner_decorator\n    def inner():\n        return 1\n    return a  # end"
    assert found["outer.<locals>.inner"].body == "    return 1"
    assert found["outer.<locals>.inner"].docstring == ""
    get = found["Box.get"]
    assert get.signature == "async def get(self):"
    assert get.source.startswith("async def get(self):\n    \"One line\"\n")
    assert found["Box.only_documented"].body == ""


@pytest.mark.parametrize("text", [
    "def f(:", "def f():\n\treturn 1\n        x", "\x00", "def f(): pass\x00", "(" * 5000, "x = " + "-" * 20000 + "1",
    "def \ud800(): pass", "", "x = 1",
])
def test_text_that_python_refuses_gives_nothing(text: str) -> None:
    assert functions(text) == []


def test_line_separators_do_not_shift_lines() -> None:
    text = 'X = "\u2028 \x0c \x85"\n\x0cdef f():\r\n    """Doc."""\r\n    return "\u2029"\r\n'
    found = functions(text)
    assert [(f.line, f.body) for f in found] == [(2, '    return "\u2029"')]


@pytest.mark.parametrize("name", ["argparse.py", "typing.py", "dataclasses.py", "json/encoder.py", "tempfile.py"])
def test_signature_docstring_and_body_make_the_same_function_again(name: str) -> None:
    """Real code: what is cut out, put together again, has the same syntax tree."""
    text = Path(stdlib_folder(), name).read_text(encoding="utf-8")
    originals = {(n.name, n.lineno): n for n in ast.walk(ast.parse(text))
                 if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
    found = functions(text)
    assert len(found) > 0.8 * len(originals)
    for function in found:
        node = originals[function.name, function.line]
        node.decorator_list = []
        documented = ast.get_docstring(node, clean=False) is not None
        rest = node.body[1:] if documented else node.body
        again = ast.parse(f"{function.signature}\n{function.body or '    pass'}").body[0]
        assert isinstance(again, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert ast.dump(again.args) == ast.dump(node.args)
        if rest and '"""' not in function.body and "'''" not in function.body:
            assert [ast.dump(s) for s in again.body] == [ast.dump(s) for s in rest], function.qualified_name
        whole = ast.parse(function.source).body[0]
        assert isinstance(whole, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert whole.name == function.name
