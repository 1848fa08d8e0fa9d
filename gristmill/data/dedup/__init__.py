"""Duplicates: by address, by exact hash, and near ones by MinHash candidates that are each verified.

Documents are numbered over all files; arrays and files go in, arrays come out, nothing is kept for each document in
Python. The order of use: `url_hash` -> `content_hash` (both through `equal_documents`) -> `fingerprints` and
`near_duplicates` -> optionally `line_keys`, `frequent_keys`, `remove_lines` -> optionally `window_keys`,
`repeated_spans`, `cut_words`; `dedup_report` tells what happened.
"""

from gristmill.data.dedup.clusters import components, connected
from gristmill.data.dedup.exact import content_hash, equal_documents, hash_columns
from gristmill.data.dedup.fingerprints import FingerprintFile, Fingerprints, fingerprints
from gristmill.data.dedup.lines import frequent_keys, line_keys, remove_lines
from gristmill.data.dedup.near import Near, near_duplicates
from gristmill.data.dedup.report import dedup_report
from gristmill.data.dedup.shingles import jaccard, shingles
from gristmill.data.dedup.substrings import cut_words, repeated_spans, window_keys
from gristmill.data.dedup.texts import ListedTexts, ParquetTexts, Texts
from gristmill.data.dedup.urls import canonical_url, url_hash

__all__ = [
    "FingerprintFile", "Fingerprints", "ListedTexts", "Near", "ParquetTexts", "Texts", "canonical_url", "components",
    "connected", "content_hash", "cut_words", "dedup_report", "equal_documents", "fingerprints", "frequent_keys",
    "hash_columns", "jaccard", "line_keys", "near_duplicates", "remove_lines", "repeated_spans", "shingles", "url_hash",
    "window_keys",
]
