"""Token shards: the token ids of many documents on disk, memory-mapped, with every byte accounted for.

A folder holds `tokens-00000.bin`, ... (ids, little-endian, 16 bits where the vocabulary allows, else 32),
`offsets.bin` (where each document begins, and the end; int64), `bytes.bin` (UTF-8 bytes of each document's text;
int64), `ids.bin` with `id-offsets.bin` (the documents' names), and `manifest.json` with sizes and SHA-256 of each.
What is known of the documents besides: the source, domain and language of each (`source.bin` with the number of a name
in `source-names.json`, int32, where there are several; likewise `domain` and `language`), and `pairs.bin` (int64, equal
for translations of each other, -1 for none) where the corpus names pairs. A document never straddles two shards. The
manifest is written last: without it a folder is no shards.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, read_json, write_json
from gristmill.core.hashing import digest_file
from gristmill.core.seeds import derive_seed

FORMAT = 2
MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 27
"""A shard is closed once it holds this many tokens (256 MB at 16 bits)."""
LABELS = ("source", "domain", "language")
"""What shards say of every document in words."""
FIX = "delete this folder and run the same command again: it is made anew from the corpus"


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


_numbers = itertools.count()
_writing: set[Path] = set()  # the unfinished folders of this process


class Origin(NamedTuple):
    """Where a token comes from."""

    document: str
    """The document's id in its corpus."""
    source: str
    """The source that the corpus has it from."""
    offset: int
    """Tokens of the document before it, its start token included."""


class TokenShards:
    """A finished folder of token shards; reading touches only the pages that are asked for."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.dtype = np.dtype(manifest["dtype"])
        self.total_tokens: int = manifest["total_tokens"]
        self.total_bytes: int = manifest["total_bytes"]
        self.documents: int = manifest["documents"]
        self.vocab_size: int = manifest["vocab_size"]
        self.offsets = self._map("offsets.bin", np.dtype("<i8"))
        self.document_bytes = self._map("bytes.bin", np.dtype("<i8"))
        self._names = self._map("ids.bin", np.dtype("u1"))
        self._name_offsets = self._map("id-offsets.bin", np.dtype("<i8"))
        self.layout: Any = None
        """How whole documents lie in rows (`laid_out`); None where they are laid end to end and cut."""
        self._label_names: dict[str, list[str]] = {}
        self._pairs = self._map("pairs.bin", np.dtype("<i8")) if "pairs.bin" in manifest["annotations"] else None
        self._shards = [self._map(shard["file"], self.dtype) for shard in manifest["shards"]]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    @classmethod
    def open(cls, folder: Path | str) -> TokenShards:
        """Open a folder; sizes are checked here, checksums by `verify`. Raises UserError naming what is damaged."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise UserError("these token shards were never finished: there is no manifest.json",
                            where=str(folder), fix=FIX)
        manifest = read_json(folder / MANIFEST, FIX)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"token shards of a format other than {FORMAT}", where=str(folder), fix=FIX)
        for name, expected in _files(manifest).items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise UserError("this file of the token shards is missing", where=str(path), fix=FIX)
            if size != expected["size"]:
                raise UserError(f"this file of the token shards has {size} bytes in place of {expected['size']}",
                                where=str(path), fix=FIX)
        return cls(folder, manifest)

    def verify(self) -> None:
        """Compare the checksum of every file with the manifest. Raises UserError naming the first that differs."""
        for name, expected in _files(self.manifest).items():
            if digest_file(self.folder / name) != expected["sha256"]:
                raise UserError("this file of the token shards is corrupt: its checksum differs",
                                where=str(self.folder / name), fix=FIX)

    @property
    def digest(self) -> str:
        """Digest of tokens, sizes and names, a pure function of documents and tokenizer; labels and pairs are checked
        by `verify`, but are no part of it."""
        return self.manifest["digest"]

    def document(self, i: int) -> np.ndarray:
        """Token ids (tokens,) of document `i`, with its first and last special tokens."""
        if not 0 <= i < self.documents:
            raise IndexError(f"document {i} of {self.documents}")
        return self.slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def document_id(self, i: int) -> str:
        """The name of document `i` in its corpus."""
        if not 0 <= i < self.documents:
            raise IndexError(f"document {i} of {self.documents}")
        return self._names[self._name_offsets[i]:self._name_offsets[i + 1]].tobytes().decode()

    def label_names(self, label: str) -> list[str]:
        """The values of one of LABELS among these documents, sorted."""
        if label not in self._label_names:
            self._label_names[label] = read_json(self.folder / f"{label}-names.json")
        return self._label_names[label]

    def labels(self, label: str) -> np.ndarray:
        """The number in `label_names` of each document's value, (documents,) int32."""
        if f"{label}.bin" not in self.manifest["annotations"]:
            return np.zeros(self.documents, dtype=np.int32)
        return self._map(f"{label}.bin", np.dtype("<i4"))

    @property
    def languages(self) -> list[str]:
        """Names of the languages of these documents."""
        return self.label_names("language")

    @property
    def document_languages(self) -> np.ndarray:
        """The number in `languages` of each document's language, (documents,)."""
        return self.labels("language")

    def locate(self, position: int) -> Origin:
        """The source row that the token at this position (of all shards laid end to end) comes from."""
        if not 0 <= position < self.total_tokens:
            raise IndexError(f"token {position} of {self.total_tokens}")
        number = int(np.searchsorted(self.offsets, position, side="right")) - 1
        source = self.label_names("source")[int(self.labels("source")[number])]
        return Origin(self.document_id(number), source, position - int(self.offsets[number]))

    @property
    def document_pairs(self) -> np.ndarray:
        """Equal numbers for documents that are translations of each other, -1 for none, (documents,) int64."""
        return np.full(self.documents, -1, dtype=np.int64) if self._pairs is None else self._pairs

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Token ids (stop - start,) at these positions of all shards laid end to end."""
        if not 0 <= start <= stop <= self.total_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.total_tokens}")
        if start == stop:
            return np.empty(0, dtype=self.dtype)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop - 1, side="right")) - 1
        parts = [
            self._shards[k][max(start - self._starts[k], 0):stop - self._starts[k]]
            for k in range(first, last + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def document_index(self, start: int, stop: int) -> np.ndarray:
        """The number of the document that each token of `start:stop` belongs to, int64 (stop - start,)."""
        if not 0 <= start <= stop <= self.total_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.total_tokens}")
        first, last = np.searchsorted(self.offsets, [start, stop], side="right")
        borders = self.offsets[first:last]
        return first - 1 + np.searchsorted(borders, np.arange(start, stop), side="right")

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        path = self.folder / name
        if not path.stat().st_size:  # an empty file cannot be mapped
            return np.empty(0, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


class ShardWriter:
    """Writes token shards beside their final folder and renames them into place when `finish` is called.

    Several processes may write the same folder at once: the first to finish wins, the others drop their copy.
    What a killed process left behind is removed by the next writer of the same folder.
    """

    def __init__(self, folder: Path | str, vocab_size: int, *, shard_tokens: int = SHARD_TOKENS,
                 about: dict[str, Any] | None = None) -> None:
        """about: JSON-ready facts for the manifest (corpus, tokenizer, split)."""
        self.folder, self.vocab_size, self.shard_tokens = Path(folder), vocab_size, shard_tokens
        self.about, self.dtype = about or {}, token_dtype(vocab_size)
        self._temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.{next(_numbers)}.tmp")
        self._remove_leftovers()
        _writing.add(self._temporary)
        with disk_errors(self.folder):
            self._temporary.mkdir(parents=True)
        # Packed integers: 44 bytes a document.
        self._offsets, self._bytes, self._name_offsets = array("q", [0]), array("q"), array("q", [0])
        self._labels = {label: array("i") for label in LABELS}
        self._label_numbers: dict[str, dict[str, int]] = {label: {} for label in LABELS}
        self._pairs = array("q")
        self._open: dict[str, tuple[BinaryIO, Any]] = {}
        self._closed: dict[str, dict[str, Any]] = {}
        self._shards: list[str] = []
        self._in_shard = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for file, _ in self._open.values():
            file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)
        _writing.discard(self._temporary)

    def add(self, ids: np.ndarray, name: str, text_bytes: int, *, source: str = "", domain: str = "",
            language: str = "und", pair: str = "") -> None:
        """Append one document: its token ids (tokens,), its name, and the UTF-8 bytes of its text.

        pair: the same for documents that are translations of each other, empty for none.
        """
        self.extend(ids, np.array([len(ids)]), [name], [text_bytes], [pair],
                    {"source": [source], "domain": [domain], "language": [language]})

    def extend(self, ids: np.ndarray, lengths: np.ndarray, names: Sequence[str], text_bytes: Sequence[int],
               pairs: Sequence[str], labels: Mapping[str, Sequence[str]]) -> None:
        """Append many documents at once, with the result of adding one after another.

        ids: token ids (tokens,) of all of them. lengths: how many belong to each (documents,). labels: the values of
        each of LABELS.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            wrong = int(np.flatnonzero((ids < 0) | (ids >= self.vocab_size))[0])
            raise UserError(f"token ids outside the vocabulary of {self.vocab_size}",
                            where=f"document {names[int(np.searchsorted(ends, wrong, side='right'))]}",
                            fix="use the tokenizer that made them")
        stored = np.ascontiguousarray(ids, dtype=self.dtype)
        first = begin = 0
        while first < len(ends):
            if not self._shards or (self._in_shard + ends[first] - begin > self.shard_tokens and self._in_shard):
                if self._shards:
                    self._close(self._shards[-1])
                self._shards.append(f"tokens-{len(self._shards):05d}.bin")
                self._in_shard = 0
            fitting = int(np.searchsorted(ends, begin + self.shard_tokens - self._in_shard, side="right"))
            first = max(first + 1, fitting)
            stop = int(ends[first - 1])
            self._write(self._shards[-1], stored[begin:stop].tobytes())
            self._in_shard += stop - begin
            begin = stop
        encoded = [name.encode() for name in names]
        self._write("ids.bin", b"".join(encoded))
        self._offsets.extend((ends + self._offsets[-1]).tolist())
        self._name_offsets.extend((np.cumsum([len(name) for name in encoded]) + self._name_offsets[-1]).tolist())
        self._bytes.extend(int(size) for size in text_bytes)
        for label in LABELS:
            numbers = self._label_numbers[label]
            self._labels[label].extend(numbers.setdefault(value, len(numbers)) for value in labels[label])
        self._pairs.extend(derive_seed("pair", pair) if pair else -1 for pair in pairs)

    def finish(self) -> TokenShards:
        """Write the manifest, flush everything to the disk, rename into place and open the result."""
        for name, values in (("offsets.bin", self._offsets), ("bytes.bin", self._bytes),
                             ("id-offsets.bin", self._name_offsets)):
            self._write(name, np.asarray(values, dtype="<i8").tobytes())
        self._write("ids.bin", b"")
        annotations = []
        for label, numbers in self._label_numbers.items():
            known = sorted(numbers)
            self._write(f"{label}-names.json", json.dumps(known, ensure_ascii=False).encode())
            annotations.append(f"{label}-names.json")
            if len(known) > 1:
                place = np.empty(len(known), dtype="<i4")
                place[[numbers[value] for value in known]] = np.arange(len(known))
                self._write(f"{label}.bin", place[np.asarray(self._labels[label])].tobytes())
                annotations.append(f"{label}.bin")
        if any(pair >= 0 for pair in self._pairs):
            self._write("pairs.bin", np.array(self._pairs, dtype="<i8").tobytes())
            annotations.append("pairs.bin")
        for name in list(self._open):
            self._close(name)
        content = {
            "format": FORMAT, "dtype": self.dtype.str, "vocab_size": self.vocab_size,
            "documents": len(self._bytes), "total_tokens": self._offsets[-1], "total_bytes": sum(self._bytes),
            "shards": [{"file": name, **self._closed[name]} for name in self._shards],
            "files": {name: facts for name, facts in sorted(self._closed.items())
                      if name not in self._shards and name not in annotations},
        }
        sums = [file["sha256"] for file in _files({**content, "annotations": {}}).values()]
        digest = hashlib.sha256("".join(sums).encode()).hexdigest()
        write_json(self._temporary / MANIFEST, {
            **content, "digest": digest, "about": self.about,
            "annotations": {name: self._closed[name] for name in annotations}})
        with disk_errors(self.folder):
            try:
                self._temporary.rename(self.folder)
            except OSError:
                if not (self.folder / MANIFEST).is_file():
                    raise
        return TokenShards.open(self.folder)

    def _write(self, name: str, data: bytes) -> None:
        with disk_errors(self.folder):
            if name not in self._open:
                self._open[name] = ((self._temporary / name).open("wb"), hashlib.sha256())
            file, checksum = self._open[name]
            file.write(data)
            checksum.update(data)

    def _close(self, name: str) -> None:
        file, checksum = self._open.pop(name)
        with disk_errors(self.folder):
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._closed[name] = {"size": size, "sha256": checksum.hexdigest()}

    def _remove_leftovers(self) -> None:
        for path in self.folder.parent.glob(f".{self.folder.name}.*.*.tmp"):
            owner = int(path.name.split(".")[-3])
            if path not in _writing and (owner == os.getpid() or not alive(owner)):
                shutil.rmtree(path, ignore_errors=True)


def alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """File name -> its size and checksum, for all files of a manifest."""
    return {shard["file"]: shard for shard in manifest["shards"]} | manifest["files"] | manifest["annotations"]
