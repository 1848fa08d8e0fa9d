"""WordNets as they lie on a disk: Princeton's database files, and WN-LMF, the exchange format of the Global WordNet
Association (which the `wn` package downloads). Nothing is downloaded here.

Princeton's files (`wndb(5WN)`): `data.<pos>` and `index.<pos>` with the senses of a word by frequency, `<pos>.exc` with
irregular forms, `cntlist.rev` with how often each sense was met. They are in Debian's package `wordnet-base` and in
NLTK's data (`corpora/wordnet`).
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.core.errors import MachineError, UserError
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.safe_xml import local, records

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_LMF = (".xml", ".xml.gz", ".xml.xz")
_LANGUAGE = re.compile(rb"<Lexicon\b[^>]*?\blanguage=[\"']([A-Za-z]{2,3})")


@dataclass
class WordNet:
    """The synonyms of single words. synonyms: (word, part of speech) -> for each sense, the commonest first, its other
    words. counts: how often the word was met as this part of speech, where that is known."""

    language: str
    synonyms: dict[tuple[str, str], list[list[str]]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    exceptions: dict[str, dict[str, str]] = field(default_factory=dict)


def places() -> list[Path]:
    """Where WordNet's files usually lie, WNSEARCHDIR and NLTK_DATA first."""
    nltk = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), "~/nltk_data", f"{sys.prefix}/nltk_data",
            "/usr/share/nltk_data", "/usr/local/share/nltk_data", "/usr/lib/nltk_data"]
    named = [os.environ.get("WNSEARCHDIR", ""), "/usr/share/wordnet", "/usr/local/share/wordnet",
             "/usr/local/WordNet-3.0/dict"]
    corpora = [f"{folder}/corpora/wordnet{suffix}" for folder in nltk if folder for suffix in ("", ".zip")]
    return [Path(place).expanduser() for place in (*named, *corpora) if place]


def find(path: str | None) -> Path:
    """The WordNet to read: `path`, or the first that is installed. UserError, or MachineError if there is none."""
    if path is not None:
        found = Path(path).expanduser()
        if not found.exists():
            raise UserError("there is no WordNet here", where=path,
                            fix="name a folder with data.noun, index.noun, ..., or a WN-LMF file (.xml, .xml.gz)")
        return found
    for place in places():
        if place.is_file() or (place / "data.noun").is_file():
            return place
    raise MachineError("no WordNet is installed", where="synonyms: wordnet",
                       fix="apt-get install wordnet-base, or name the folder or WN-LMF file of one as `path`, or take "
                           "the synonyms from embeddings (kind: vectors or kind: model)")


def files(path: Path) -> list[Path]:
    """The files that are read, for digests."""
    if path.is_file():
        return [path]
    names = [f"{kind}.{name}" for name in PARTS for kind in ("data", "index")] + [f"{name}.exc" for name in PARTS]
    return [path / name for name in (*names, "cntlist.rev") if (path / name).is_file()]


def read_wordnet(path: Path) -> WordNet:
    """Read a WordNet of either form. UserError for what is none or is damaged."""
    try:
        if path.is_file() and path.name.endswith(_LMF):
            return _read_lmf(path)
        if path.is_file() and path.suffix != ".zip":
            raise UserError("this is no WordNet", where=str(path),
                            fix="name a folder, or a .xml, .xml.gz or .xml.xz file")
        return _read_files(path)
    except UserError:
        raise
    except (Damaged, OSError, ValueError, LookupError, zipfile.BadZipFile, EOFError, lzma.LZMAError) as error:
        raise UserError(f"this WordNet is damaged ({error})", where=str(path), fix="install it again") from error


def _lines(path: Path, name: str) -> Iterator[str]:
    """The lines of one of the database's files, its licence left out; none where the file is missing."""
    if path.is_dir():
        if not (path / name).is_file():
            return
        with (path / name).open(encoding="utf-8", errors="replace") as file:
            yield from (line for line in file if not line.startswith("  "))
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.rpartition("/")[2] == name:
                with archive.open(member) as packed:
                    yield from (line for raw in packed if not (line := raw.decode("utf-8", "replace")).startswith("  "))


def _read_files(path: Path) -> WordNet:
    wordnet = WordNet("en")
    for name, part in PARTS.items():
        synsets = {}
        for line in _lines(path, f"data.{name}"):
            fields = line.split(" ")
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            synsets[fields[0]] = [word.partition("(")[0] for word in words]
        for line in _lines(path, f"index.{name}"):
            fields = line.split()
            senses = [synsets[offset] for offset in fields[len(fields) - int(fields[2]) :]]
            _add(wordnet, fields[0], part, senses)
        exceptions = wordnet.exceptions.setdefault(part, {})
        for line in _lines(path, f"{name}.exc"):
            form, _, base = line.strip().partition(" ")
            if "_" not in form and base and " " not in base:
                exceptions[form] = base
    if not wordnet.synonyms:
        raise UserError("this folder holds no WordNet", where=str(path), fix="it needs data.noun, index.noun and so on")
    for line in _lines(path, "cntlist.rev"):
        key, _, count = line.split()
        word, _, sense = key.partition("%")
        wordnet.counts[word, "nvara"[int(sense[0]) - 1]] += int(count)
    return wordnet


def _read_lmf(path: Path) -> WordNet:
    with _opened(path) as stream:
        language = _LANGUAGE.search(stream.read(1 << 20))
    if language is None:
        raise UserError("this file names no lexicon and its language", where=str(path), fix="name a WN-LMF file")
    wordnet = WordNet(language[1].decode())
    synsets: dict[str, list[str]] = {}
    senses_of: dict[tuple[str, str], list[str]] = {}
    with _opened(path) as stream:
        for entry in records(stream, "LexicalEntry"):
            lemma = next((child for child in entry if local(child.tag) == "Lemma"), None)
            if lemma is None:
                continue
            word, part = lemma.get("writtenForm", ""), lemma.get("partOfSpeech", "")
            part = "a" if part == "s" else part
            for form in (child for child in entry if local(child.tag) == "Form"):
                if " " not in (written := form.get("writtenForm", "")):
                    wordnet.exceptions.setdefault(part, {})[written.lower()] = word.lower()
            for sense in (child for child in entry if local(child.tag) == "Sense"):
                synset = sense.get("synset", "")
                senses_of.setdefault((word, part), []).append(synset)
                synsets.setdefault(synset, []).append(word)
                for count in (child for child in sense if local(child.tag) == "Count"):
                    wordnet.counts[word, part] += int(count.text or 0)
    if not senses_of:
        raise UserError("this file holds no lexical entries", where=str(path), fix="name a WN-LMF file")
    for (word, part), names in senses_of.items():
        _add(wordnet, word, part, [synsets[name] for name in names])
    return wordnet


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")


def _add(wordnet: WordNet, word: str, part: str, senses: list[list[str]]) -> None:
    """Single words only; names (with a capital) are nobody's synonyms."""
    if _single(word):
        wordnet.synonyms[word, part] = [[other for other in sense if other != word and _single(other)]
                                        for sense in senses]


def _single(word: str) -> bool:
    return word.replace("-", "").isalpha() and word == word.lower()
