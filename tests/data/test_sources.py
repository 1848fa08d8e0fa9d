import pytest

from gristmill.data.documents import Document
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.sources import Files, PythonStdlib, source_names
from gristmill.data.sources.python_stdlib import group, is_test


def test_encodings() -> None:
    assert decode("schön".encode()) == ("schön", "utf-8")
    assert decode("schön".encode("utf-16")) == ("schön", "utf-16")
    assert decode(b"\xef\xbb\xbfbom") == ("bom", "utf-8")
    german = "Die Übung für größere Bäume läuft schön und heißt Straße. " * 5
    assert decode(german.encode("cp1252"))[0] == german
    russian = "Съешь ещё этих мягких французских булок, да выпей чаю. " * 5
    assert decode(russian.encode("koi8-r"))[0] == russian
    for binary in (b"\x00\x01\x02text", bytes(range(1, 32)) * 20, b"\xff\xfe\x00"):
        with pytest.raises(Unreadable):
            decode(binary)


def test_source_names() -> None:
    files = Files(path="x")
    assert source_names([files, PythonStdlib(), files]) == ["files", "python_stdlib", "files2"]
    with pytest.raises(ValueError, match="two sources are called 'a'"):
        source_names([Files(path="x", name="a"), Files(path="y", name="a")])


def test_a_module_and_its_tests_are_one_group() -> None:
    assert {group(n) for n in ("json/decoder.py", "json/__init__.py", "test/test_json/test_scan.py")} == {"json"}
    names = ("_pydecimal.py", "decimal.py", "test/test_decimal.py")
    assert {group(n) for n in names} == {"decimal"}
    assert group("test/_test_multiprocessing.py") == "multiprocessing"
    assert group("test/datetimetester.py") == "datetime"
    assert group("timeit.py") == "timeit"
    assert is_test("idlelib/idle_test/x.py")
    assert not is_test("unittest/case.py")


def test_stdlib_is_read_in_a_fixed_order_with_provenance() -> None:
    source = PythonStdlib(tests=False)
    files = source.inputs()
    assert files == source.inputs()
    names = [file.name for file in files]
    assert "argparse.py" in names
    assert names == sorted(names)
    assert not any("site-packages" in name or "_sysconfigdata" in name for name in names)
    chosen = [file for file in files if file.name in ("argparse.py", "pydoc_data/topics.py")]
    documents = [d for file in chosen for part in source.ranges(file, 1000)
                 for d in source.read(part, "python_stdlib") if isinstance(d, Document)]
    assert documents[0].id == "python_stdlib/argparse.py"
    assert documents[0].metadata["license"] == "PSF-2.0"
    assert (documents[0].language, documents[0].domain) == ("python", "argparse")
    topics = [d for d in documents if d.domain == "pydoc_data"]
    assert len(topics) > 50
    assert {d.language for d in topics} == {"en"}
