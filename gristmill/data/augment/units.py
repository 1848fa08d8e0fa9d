"""The work on one shard, as jobs from file to file: first what is measured of all documents, then the made texts of the
methods that need no model.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_atomic, write_json
from gristmill.data.augment.counterfactual import pronouns, swapped
from gristmill.data.augment.edits import edited
from gristmill.data.augment.gates import Gates, judge
from gristmill.data.augment.method import MADE, Made, Original, made_id, metadata_of, takes
from gristmill.data.augment.methods import method_from_plain
from gristmill.data.augment.synonyms import replaced
from gristmill.data.augment.thesaurus import count_words, open_counts, open_thesaurus
from gristmill.data.dedup.exact import content_hash, hash_columns
from gristmill.data.dedup.words import split_words
from gristmill.data.documents import SCHEMA
from gristmill.data.funnel import Tally, count_kept
from gristmill.data.read import Rows, sampled_ngrams

MADE_SCHEMA = pa.schema([
    *SCHEMA, pa.field("reason", pa.string(), nullable=False), pa.field("detail", pa.string(), nullable=False),
    pa.field("method", pa.string(), nullable=False), pa.field("of", pa.string(), nullable=False),
    pa.field("similarity", pa.float64()), pa.field("ratio", pa.float64()), pa.field("changed", pa.float64()),
    pa.field("content", pa.binary()), pa.field("ngrams", pa.binary()),
])
"""A made document as it will be written, why it goes if it does, how far it lies from its original, the hash of its
content and its long n-grams."""
BATCH = 256


def originals(shard: Path | str) -> Iterator[tuple[dict[str, Any], Original]]:
    """The rows of a shard with what methods see of them. UserError for a damaged shard."""
    try:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=SCHEMA.names):
                for row in batch.to_pylist():
                    made = f'"{MADE}"' in row["metadata"] and MADE in json.loads(row["metadata"])
                    yield row, Original(row["id"], row["text"], row["language"], made)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"this shard is damaged ({str(error).splitlines()[0]})", where=str(shard),
                        fix="delete this corpus version and run the data stage again") from error


def made_row(row: Mapping[str, Any], made: Made, method: Any, name: str, seed: int, distance: Any) -> dict[str, Any]:
    """A row of `MADE_SCHEMA`. Everything but id, text and metadata is the original's: so is its cluster."""
    metadata = {**json.loads(row["metadata"] or "{}"), MADE: metadata_of(made, method, name, seed)}
    return {
        **row, "id": made_id(made.of, name, made.copy), "text": made.text,
        "metadata": json.dumps(metadata, sort_keys=True, ensure_ascii=False), "reason": made.reason,
        "detail": made.detail, "method": name, "of": made.of, "similarity": distance.similarity,
        "ratio": distance.ratio, "changed": distance.changed, "content": content_hash(made.text),
        "ngrams": _ngrams(made.text),
    }


def _ngrams(text: str) -> bytes:
    return sampled_ngrams(split_words([text]))[0].tobytes()


def measure_unit(*, shard: str, split: str, target: str, methods: Sequence[tuple[str, dict[str, Any]]],
                 seed: int) -> dict[str, Any]:
    """What is known of a shard's documents before any is made: `<target>.json` and `<target>.npz`.

    The tally of the funnel, names of methods that made some of them, hashes of contents; in training also counts of
    words and pronouns where a method asks for them, in other splits the long n-grams.
    """
    typed = [(name, method_from_plain(plain)) for name, plain in methods]
    kinds = {method.kind for _, method in typed}
    swapping = [(name, method) for name, method in typed if method.kind == "counterfactual"]
    tally, words, names = Tally(), Counter[str](), set()
    leaning: dict[str, list[tuple[str, int, int]]] = {name: [] for name, _ in swapping}
    she = he = documents = 0
    hashes, grams = [], []
    for row, original in originals(shard):
        documents += 1
        hashes.append(content_hash(original.text))
        tally_row(tally, row)
        if split != "train":
            grams.append(np.frombuffer(_ngrams(original.text), np.uint64))
            continue
        if original.made:
            names.add(json.loads(row["metadata"])[MADE].get("method", ""))
        if "synonyms" in kinds:
            words.update(count_words([original.text]))
        if swapping:
            found = pronouns(original.text)
            she, he = she + found.she, he + found.he
            for name, method in swapping:
                if found.she != found.he and takes(method, name, original, seed):
                    leaning[name].append((original.id, found.she, found.he))
    arrays = io.BytesIO()
    np.savez(arrays, hashes=hash_columns(hashes), grams=np.concatenate([np.empty(0, np.uint64), *grams]),
             sizes=np.array([len(one) for one in grams], np.int64))
    write_atomic(Path(f"{target}.npz"), arrays.getvalue())
    result = {"documents": documents, "tally": tally, "methods": sorted(names), "she": she, "he": he,
              "leaning": leaning, "words": dict(sorted(words.items()))}
    write_json(Path(f"{target}.json"), result)
    return {"documents": documents}


def tally_row(tally: Tally, row: Mapping[str, Any]) -> None:
    """Count a document that the corpus holds."""
    count_kept(tally, row, len(row["text"].encode("utf-8", "replace")), len(row["text"]))


def make_unit(*, shard: str, target: str, methods: Sequence[tuple[str, dict[str, Any]]], gates: dict[str, Any],
              seed: int, prepared: dict[str, str]) -> dict[str, Any]:
    """The made texts of a shard's documents by the methods that need no model, into the Parquet file `target`.

    prepared: for each method's name the file that was made ready for it (a thesaurus, chosen documents); `counts` are
    the word counts.
    """
    typed = [(name, method_from_plain(plain)) for name, plain in methods]
    rules = Gates(**gates)
    chosen = {name: set(read_json(Path(prepared[name]))) for name, method in typed
              if method.kind == "counterfactual" and method.balance}
    taken = Counter[str]()
    with Rows(target, MADE_SCHEMA) as rows:
        for row, original in originals(shard):
            for name, method in typed:
                if not takes(method, name, original, seed) or (name in chosen and original.id not in chosen[name]):
                    continue
                taken[name] += 1
                made = [_make(original, method, name, copy, seed, prepared) for copy in range(1, method.copies + 1)]
                for one, distance in zip(made, judge(original, made, rules, None), strict=True):
                    rows.write([made_row(row, one, method, name, seed, distance)])
    write_json(Path(f"{target}.json"), {"taken": dict(taken)})
    return {"rows": sum(taken.values())}


def _make(original: Original, method: Any, name: str, copy: int, seed: int, prepared: Mapping[str, str]) -> Made:
    if method.kind == "edits":
        return edited(original, method, name, copy, seed)
    if method.kind == "counterfactual":
        return swapped(original, copy)
    return replaced(original, method, name, copy, seed, open_thesaurus(prepared[name]), open_counts(prepared["counts"]))
