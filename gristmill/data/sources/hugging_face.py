"""Hugging Face data sets: of the hub (streamed) or of a local folder; a loading script never runs."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.records import check_columns
from gristmill.data.inputs import Input, Range, is_url, list_inputs, open_input
from gristmill.data.sources.files import RECORDS, Files

READABLE = RECORDS | {".txt"}
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "dev", "val"),
          "test": ("test", "testing", "eval", "evaluation")}
"""Split -> the words in file and folder names that mean it."""
_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
_CARD_BYTES = 1 << 20
_SKIPPED = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")


@config
class HuggingFace:
    """A data set of the Hugging Face hub, or a local folder of one (a clone, or what `save_to_disk` wrote)."""

    kind: Literal["hugging_face"] = "hugging_face"
    dataset: str
    """A hub id (`allenai/c4`), or a local folder or URL that holds the data set's files."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    subset: str = ""
    """The configuration (a language, a domain ...); the default one, if empty."""
    split: str = "train"
    """Which split is read; `all` reads every file. (How our own corpus is split has nothing to do with it.)"""
    revision: str = "main"
    """Branch, tag or commit of a hub data set; a commit makes the run repeatable."""
    column: str = "text"
    """The field that holds the text; short for `columns: {text: ...}`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Where the text and its provenance are, as for `files`: fields, paths into nested ones, templates of several."""
    license: str = ""
    """The licence, if the data set's card does not say it."""
    language: str = ""
    """ISO 639-1 code, if all the texts are in one known language."""
    domain: str = ""
    """A label for these documents; the source's name, if empty."""

    def __post_init__(self) -> None:
        require(bool(self.dataset.strip()), "dataset", "give a hub id or a folder")
        require(bool(self.split), "split", "name a split, or `all`")
        both = self.column != "text" and "text" in self.columns
        require(bool(self.column) and not both, "column", "give `column` or `columns.text`")
        check_columns(self.columns)

    def inputs(self) -> list[Input]:
        """The files of the subset and split, sorted; a UserError if there are none, or only a loading script."""
        root, card = self._root(), self._card()
        every = [item for item in list_inputs(root) if item.name.rpartition("/")[2] not in _SKIPPED]
        found = [item for item in every if item.suffix in READABLE]
        chosen = self._chosen(found, card)
        if chosen:
            return chosen
        scripts = [item.name for item in every if item.suffix == ".py"]
        if not found and scripts:
            raise UserError("this data set has no files of data, only a loading script, and scripts are never run",
                            where=f"{self.dataset}/{scripts[0]}",
                            fix="read what the hub converted itself with `revision: refs/convert/parquet`")
        names = sorted({_split_of(item.name) or "?" for item in found})
        subsets = ", ".join(str(entry.get("config_name")) for entry in _configs(card)) or "none"
        raise UserError(f"no file of split {self.split!r}" + (f" in subset {self.subset!r}" if self.subset else ""),
                        where=self.dataset, fix=f"splits: {', '.join(names) or 'none'}; subsets: {subsets}")

    def ranges(self, item: Input, size: int) -> list[Range]:
        """As for files of their kind: row groups, lines, or the whole."""
        return self._files().ranges(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """Stream the rows that begin in the range, with the data set's name, revision and licence."""
        about = _about(self._root(), self.dataset)
        card = about.card
        stated = card.get("license")
        said = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "unknown")
        licence = self.license or said
        for found in self._files(licence).read(part, source):
            document = found.document if isinstance(found, Reject) else found
            document.metadata["dataset"] = about.name
            if self._on_hub():
                document.metadata["revision"] = self.revision
            if not self.domain and document.domain == part.input.name.partition("/")[0]:
                document.domain = source
            yield found

    def _files(self, licence: str = "unknown") -> Files:
        return Files(path=self.dataset, column=self.column, columns=self.columns, license=licence,
                     language=self.language, domain=self.domain)

    def _on_hub(self) -> bool:
        return not is_url(self.dataset) and not Path(self.dataset).expanduser().exists()

    def _root(self) -> str:
        if not self._on_hub():
            return self.dataset
        if not _ID.fullmatch(self.dataset):
            raise UserError("neither a folder nor a hub id", where=self.dataset, fix="give `owner/name` or a folder")
        try:
            import huggingface_hub  # noqa: F401
        except ImportError as error:
            raise UserError("reading from the Hugging Face hub needs the package huggingface_hub", where=self.dataset,
                            fix='install it: pip install "gristmill[hub]", or download the data set and give its folder'
                            ) from error
        return f"hf://datasets/{self.dataset}@{self.revision.replace('/', '%2F')}"

    def _card(self) -> dict[str, Any]:
        return _about(self._root(), self.dataset).card

    def _chosen(self, found: list[Input], card: dict[str, Any]) -> list[Input]:
        configs = _configs(card)
        named = [entry for entry in configs if entry.get("config_name") == self.subset] if self.subset else [
            entry for entry in configs if entry.get("default") or entry.get("config_name") == "default"] or configs[:1]
        if named and (patterns := _patterns(named[0], self.split)) is not None:
            return [item for item in found if any(_fits(item.name, pattern) for pattern in patterns)]
        if self.subset:
            found = [item for item in found if self.subset in item.name.split("/")[:-1]
                     or item.name.rpartition("/")[2].startswith(f"{self.subset}-")]
        if self.split == "all":
            return found
        splits = {item: _split_of(item.name) for item in found}
        if not any(splits.values()) and self.split == "train":  # a folder that says nothing is all of it for training
            return found
        return [item for item, split in splits.items() if split == _canonical(self.split)]


@dataclass(frozen=True, slots=True)
class _About:
    name: str
    card: dict[str, Any]


def _about(root: str, dataset: str) -> _About:
    """What README.md (its YAML head) or dataset_info.json says."""
    import yaml

    card: dict[str, Any] = {}
    for name in ("dataset_info.json", "README.md"):
        try:
            item = Input(f"{root.rstrip('/')}/{name}" if is_url(root) else str(Path(root).expanduser() / name), name, 0)
            with open_input(item) as stream:
                text = stream.read(_CARD_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        try:
            if name == "README.md":
                value = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---") if text.startswith("---") else "")
            else:
                value = json.loads(text)
        except (ValueError, yaml.YAMLError, RecursionError):
            continue
        if isinstance(value, dict):
            card.update({key: held for key, held in value.items() if held not in (None, "")})
    return _About(dataset if not is_url(dataset) and not Path(dataset).expanduser().exists()
                  else dataset.rstrip("/").rpartition("/")[2], card)


def _configs(card: dict[str, Any]) -> list[dict[str, Any]]:
    configs = card.get("configs")
    return [entry for entry in configs if isinstance(entry, dict)] if isinstance(configs, list) else []


def _patterns(entry: dict[str, Any], split: str) -> list[str] | None:
    """The file patterns of a configuration's split; None where the card leaves them to the names of files."""
    held = entry.get("data_files")
    folder = str(entry.get("data_dir") or "").strip("/")
    if held is None:
        return [f"{folder}/**"] if folder and split == "all" else None
    listed = held if isinstance(held, list) else [held]
    found: list[str] = []
    for one in listed:
        paths = one.get("path") if isinstance(one, dict) else one
        of = one.get("split", "train") if isinstance(one, dict) else "train"
        if split in ("all", of) or _canonical(split) == _canonical(str(of)):
            found += [f"{folder}/{path}" if folder else str(path) for path in (
                paths if isinstance(paths, list) else [paths])]
    return found


def _fits(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern.replace("**/", ""))


def _canonical(split: str) -> str:
    return next((name for name, words in SPLITS.items() if split.lower() in words), split.lower())


def _split_of(name: str) -> str | None:
    """The split that a file's name says (train-00000-of-00002.parquet, data/test.jsonl, validation/x.arrow)."""
    *folders, base = name.lower().split("/")
    for part in (base.partition(".")[0], *reversed(folders)):
        words = re.split(r"[^a-z]+", part)
        for split, known in SPLITS.items():
            if any(word in known for word in words):
                return split
    return None
