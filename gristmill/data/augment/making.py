"""All made texts of a corpus's training documents: measured, made, asked for, and compared with each other.

    measure   every shard: hashes of contents, words, pronouns (units, in parallel)
    prepare   one file a method that needs one: a thesaurus, the documents that are swapped
    make      the methods that need no model (units, in parallel)
    ask       the methods that ask a model, one after the other; answers go to a journal
    equal     of texts with equal content one stays: an original before a made one, then the first

A unit that is finished is not begun again; what is made from the journal is made again from it. Memory: about 64 bytes
a document and a made text, 150 bytes an answer, and the words and pronouns that methods ask for.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.hashing import digest, digest_file
from gristmill.core.progress import Progress, Silent
from gristmill.core.seeds import fraction
from gristmill.core.stage import Runtime
from gristmill.core.writer import Writer
from gristmill.data.augment import units
from gristmill.data.augment.ask import Asked, Asking, Job
from gristmill.data.augment.counterfactual import Pronouns, balanced
from gristmill.data.augment.gates import Gates, judge
from gristmill.data.augment.journal import Journal
from gristmill.data.augment.method import Original, method_names, takes
from gristmill.data.augment.rewriting import WRITING, most_tokens, writing
from gristmill.data.augment.server import Server, ServerWriter
from gristmill.data.augment.thesaurus import WordCounts, add_counts, save
from gristmill.data.dedup.exact import equal_documents
from gristmill.data.documents import SPLITS, read_table
from gristmill.data.executors import run_tasks
from gristmill.data.funnel import Tally, merge
from gristmill.data.read import Rows

MEASURE, MAKE = f"{units.__name__}:measure_unit", f"{units.__name__}:make_unit"
Open = Callable[[str], Writer]
"""Opens the local model that a config names."""


@dataclass
class Setting:
    """Where and how texts are made."""

    corpus: Path
    """A folder with `documents/<split>-*.parquet`."""
    scratch: Path
    answers: Path
    """Folder of the journals."""
    seed: int
    open_model: Open
    runtime: Runtime = Runtime()
    progress: Progress = field(default_factory=Silent)


@dataclass
class Found:
    """What was made. made: for each training shard the files of `units.MADE_SCHEMA`."""

    made: dict[Path, list[Path]]
    tally: Tally
    pronouns: Pronouns
    taken: Counter[str]
    """Documents that each method took."""
    asked: dict[str, Asked]
    arrays: list[Path]
    """For each shard the hashes and n-grams that were measured, see `units.measure_unit`."""
    splits: list[str]
    """The split of each of them."""
    equals: dict[Path, np.ndarray] = field(default_factory=dict)
    """file -> rows of it whose content another document has."""

    def tables(self) -> Iterator[tuple[Path, pa.Table]]:
        """(training shard, what was made of its documents), `reason` and `detail` settled."""
        for shard, paths in self.made.items():
            for path in paths:
                table = read_table(path)
                gone = np.zeros(len(table), bool)
                gone[self.equals.get(path, np.empty(0, np.int64))] = True
                for name, value in (("reason", "duplicate"), ("detail", "equal to another document")):
                    column = pa.array(np.where(gone, value, table[name].to_numpy(zero_copy_only=False)), pa.string())
                    place = units.MADE_SCHEMA.get_field_index(name)
                    table = table.set_column(place, units.MADE_SCHEMA.field(name), column)
                yield shard, table


class Making:
    """Makes the texts of one corpus."""

    def __init__(self, methods: Sequence[Any], gates: Gates, setting: Setting) -> None:
        self.methods = dict(zip(method_names(methods), methods, strict=True))
        self.gates, self.setting = gates, setting
        self.train, self.held_out = _shards(setting.corpus)
        self.plain = [(name, to_plain(method)) for name, method in self.methods.items()]
        self.local = [(name, plain) for name, plain in self.plain if plain["kind"] not in WRITING]

    def run(self) -> Found:
        """Make all texts. UserError for methods that made documents of this corpus already."""
        arrays, measured = self._measure()
        tally: Tally = {}
        taken, pronouns = Counter[str](), Pronouns()
        for one in measured:
            merge(tally, one["tally"])
            pronouns += Pronouns(one["she"], one["he"])
            for name in one["methods"]:
                if name in self.methods:
                    raise UserError(f"this corpus holds documents that a method {name!r} made", where="methods",
                                    fix="give the method another `name`, or augment the corpus that was there before")
        made: dict[Path, list[Path]] = {path: [] for path in self.train}
        if self.local:
            self._make_local(self._prepare(measured, pronouns), made, taken)
        asked = {}
        with _Spill(self.setting.scratch / "originals.jsonl") as spill:
            for name, method in self.methods.items():
                if method.kind in WRITING:
                    asked[name] = self._write(name, method, spill, made, taken)
        splits = ["train"] * len(self.train) + [split for split, _ in self.held_out]
        found = Found(made, tally, pronouns, taken, asked, arrays, splits)
        self._equal(found)
        return found

    def _measure(self) -> tuple[list[Path], list[dict[str, Any]]]:
        folder = self.setting.scratch / "measured"
        tasks = []
        for split, path in [*(("train", path) for path in self.train), *self.held_out]:
            identity = digest([path.name, path.stat().st_size, self.plain, self.setting.seed])[:16]
            tasks.append({"shard": str(path), "split": split, "target": str(folder / f"{path.stem}-{identity}"),
                          "methods": self.plain, "seed": self.setting.seed})
        self._run(MEASURE, tasks, "measure", ".json")
        targets = [task["target"] for task in tasks]
        return [Path(f"{target}.npz") for target in targets], [read_json(Path(f"{target}.json")) for target in targets]

    def _prepare(self, measured: Sequence[Mapping[str, Any]], total: Pronouns) -> dict[str, str]:
        """method -> the file that its units open."""
        folder, files = self.setting.scratch / "prepared", {}
        synonyms = [name for name, plain in self.local if plain["kind"] == "synonyms"]
        if synonyms:
            words = Counter[str]()
            for one in measured:
                add_counts(words, one["words"])
            counts = WordCounts(sum(words.values()), words)
            files["counts"] = save(folder, "counts", {"total": counts.total, "counts": dict(sorted(words.items()))})
            for name in synonyms:
                files[name] = save(folder, name, self.methods[name].source.thesaurus(counts, self.setting.open_model))
        for name, plain in self.local:
            if plain["kind"] == "counterfactual":
                leaning = [(id, she, he) for one in measured for id, she, he in one["leaning"][name]]
                files[name] = str(folder / f"{name}.json")
                write_json(Path(files[name]), sorted(balanced(leaning, total, name, self.setting.seed)))
        return files

    def _make_local(self, prepared: dict[str, str], made: dict[Path, list[Path]], taken: Counter[str]) -> None:
        folder = self.setting.scratch / "made"
        contents = {name: digest_file(Path(path)) for name, path in prepared.items()}
        tasks = []
        for path in self.train:
            identity = digest([path.name, path.stat().st_size, self.local, to_plain(self.gates), self.setting.seed,
                               contents])[:16]
            target = folder / f"{path.stem}-{identity}.parquet"
            made[path].append(target)
            tasks.append({"shard": str(path), "target": str(target), "methods": self.local,
                          "gates": to_plain(self.gates), "seed": self.setting.seed, "prepared": prepared})
        self._run(MAKE, tasks, "make", ".json")
        for task in tasks:
            taken.update(read_json(Path(f"{task['target']}.json"))["taken"])

    def _run(self, job: str, tasks: list[dict[str, Any]], label: str, done: str) -> None:
        """Run what is not finished yet; `<target><done>` says that a unit is."""
        left = [task for task in tasks if not Path(f"{task['target']}{done}").exists()]
        with self.setting.progress.bar(label, len(left), "shards") as bar:
            run_tasks(job, left, self.setting.runtime,
                      lambda task, result: bar.advance(1, note=Path(task["shard"]).stem))

    def _write(self, name: str, method: Any, spill: _Spill, made: dict[Path, list[Path]], taken: Counter[str]) -> Asked:
        """Ask for the texts of a method and make them; gives what that took."""
        setting = self.setting
        writers = [self._writer(method.writer)]
        if getattr(method, "back_writer", None) is not None:
            writers.append(self._writer(method.back_writer))
        spill.fill(self.train, {n: m for n, m in self.methods.items() if m.kind in WRITING}, setting.seed)
        order = spill.order(name, method, setting.seed)
        with contextlib.ExitStack() as stack:
            opened: dict[str, Journal] = {}
            for writer in writers:
                if writer.identity not in opened:
                    path = setting.answers / f"answers-{writer.identity[:16]}.jsonl"
                    opened[writer.identity] = stack.enter_context(Journal(path))
            journals = [opened[writer.identity] for writer in writers]
            with setting.progress.bar(f"ask {writers[0].name} ({name})", len(order), "texts") as bar:
                asking = Asking(writers, journals, most_requests=method.most_requests, most_tokens=method.most_tokens,
                                advance=bar.advance)
                asked = asking.run(self._jobs(name, method, spill, order, writers))
            within = {(id, copy) for id, copy in order[: asked.within]} if asked.within < len(order) else None
            for shard in self.train:
                path = setting.scratch / "made" / f"{shard.stem}-{name}.parquet"
                made[shard].append(path)
                with Rows(path, units.MADE_SCHEMA) as rows:
                    for row, original in units.originals(shard):
                        if not takes(method, name, original, setting.seed):
                            continue
                        copies = [copy for copy in range(1, method.copies + 1)
                                  if within is None or (original.id, copy) in within]
                        taken[name] += bool(copies)
                        texts = [asking.replay(writing(original, method, name, copy, setting.seed)) for copy in copies]
                        for one, distance in zip(texts, judge(original, texts, self.gates, method.most_similar),
                                                 strict=True):
                            rows.write([units.made_row(row, one, method, name, setting.seed, distance)])
        return asked

    def _writer(self, config: Any) -> Writer:
        return ServerWriter(config) if isinstance(config, Server) else self.setting.open_model(config.model)

    def _jobs(self, name: str, method: Any, spill: _Spill, order: Sequence[tuple[str, int]],
              writers: Sequence[Writer]) -> Iterator[Job]:
        def count(prompt: str) -> int:
            return max(writer.most_prompt_tokens(prompt) for writer in writers)

        for id, copy in order:
            original = spill.read(id)
            requests, tokens = most_tokens(original, method, count)
            yield Job(functools.partial(writing, original, method, name, copy, self.setting.seed), requests, tokens)

    def _equal(self, found: Found) -> None:
        """Which made texts have the content of an original, or of another made text that comes before."""
        hashes = [np.load(path)["hashes"] for path in found.arrays]
        paths = [path for paths in found.made.values() for path in paths]
        starts = [sum(map(len, hashes))]
        stays = [np.arange(starts[0])]
        for path in paths:
            table = read_table(path, ["content", "reason"])
            hashes.append(np.frombuffer(b"".join(table["content"].to_pylist()), np.uint64).reshape(-1, 2))
            passed = np.array([reason == "" for reason in table["reason"].to_pylist()], bool)
            stays.append(np.flatnonzero(passed) + starts[-1])
            starts.append(starts[-1] + len(table))
        partner = equal_documents(hashes, np.concatenate(stays))
        for number, path in enumerate(paths):
            here = partner[starts[number] : starts[number + 1]]
            found.equals[path] = np.flatnonzero(here >= 0)


class _Spill:
    """The documents that some model is asked about, in a file, so that they can be asked about in any order.

    Memory: about 250 bytes a document.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.filled = False
        self.places: dict[str, int] = {}

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *about: Any) -> None:
        if self.filled:
            self.file.close()
        self.path.unlink(missing_ok=True)

    def fill(self, train: Sequence[Path], methods: Mapping[str, Any], seed: int) -> None:
        """Write what one of the methods takes; once."""
        if self.filled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("wb+")
        self.filled = True
        for shard in train:
            for _, original in units.originals(shard):
                if any(takes(method, name, original, seed) for name, method in methods.items()):
                    self.places[original.id] = self.file.tell()
                    line = json.dumps([original.id, original.text, original.language], ensure_ascii=False)
                    self.file.write(line.encode("utf-8", "surrogatepass") + b"\n")
        self.file.flush()

    def order(self, name: str, method: Any, seed: int) -> list[tuple[str, int]]:
        """(id, copy) of all texts that a method is to make, in the order of their hashes."""
        points = []
        for id in self.places:
            if takes(method, name, self.read(id), seed):
                points += [(fraction(seed, "augment", "order", name, id, copy), id, copy)
                           for copy in range(1, method.copies + 1)]
        return [(id, copy) for _, id, copy in sorted(points)]

    def read(self, id: str) -> Original:
        """A document of the file."""
        self.file.seek(self.places[id])
        return Original(*json.loads(self.file.readline().decode("utf-8", "surrogatepass")))


def _shards(corpus: Path) -> tuple[list[Path], list[tuple[str, Path]]]:
    """The shards of the training split, and (split, shard) of the others."""
    folder = corpus / "documents"
    found = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in SPLITS}
    if not found["train"]:
        raise UserError("this corpus has no train documents", where=str(folder), fix="name a corpus of the data stage")
    return found["train"], [(split, path) for split in SPLITS if split != "train" for path in found[split]]
