"""Duplicates: exact ones by hash, near ones by MinHash candidates that are each verified by their true similarity."""

from gristmill.data.dedup.clusters import Pair, Removal, connected, removals
from gristmill.data.dedup.exact import content_hash
from gristmill.data.dedup.minhash import candidate_pairs, signature
from gristmill.data.dedup.shingles import jaccard, shingles

__all__ = [
    "Pair", "Removal", "candidate_pairs", "connected", "content_hash", "jaccard", "removals", "shingles", "signature",
]
