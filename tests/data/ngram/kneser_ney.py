"""The slow reference: interpolated modified Kneser-Ney with dictionaries, straight from Chen and Goodman (1999)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

B, E, U = "<s>", "</s>", "<unk>"


class KneserNey:
    """rows: lists of tokens. Words seen fewer than `min_count` times are <unk>; n-grams of 3 and more tokens seen fewer
    than `keep_count` times leave their mass to shorter contexts."""

    def __init__(self, rows, order, min_count=1, keep_count=1):
        seen = Counter(token for row in rows for token in row)
        rows = [[B, *(t if seen[t] >= min_count else U for t in row), E] for row in rows]
        self.order = order
        raw = {n: Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
               for n in range(1, order + 1)}
        self.vocabulary = sorted({t for (t,) in raw[1]} - {B} | {E, U})
        self.p, self.left = {}, {}
        for n in range(1, order + 1):
            counts = dict(raw[n])
            if n < order:
                before = defaultdict(set)
                for gram in raw[n + 1]:
                    before[gram[1:]].add(gram[0])
                counts = {gram: len(before[gram]) if before[gram] else times for gram, times in counts.items()}
            counts.pop((B,), None)
            discount = self.discounts(Counter(counts.values()))
            total = Counter()
            for gram, times in counts.items():
                total[gram[:-1]] += times
            own = {gram: (times - discount[min(times, 3)]) / total[gram[:-1]] for gram, times in counts.items()
                   if n < 3 or raw[n][gram] >= keep_count}
            kept = Counter()
            for gram, share in own.items():
                kept[gram[:-1]] += share
            self.left.update({context: 1 - kept[context] for context in total})
            self.p.update(own)

    @staticmethod
    def discounts(n):
        found = [0, 0.5, 1.0, 1.5]
        if n[1] and n[2]:
            y = n[1] / (n[1] + 2 * n[2])
            for k in (1, 2, 3):
                if n[k]:
                    d = k - (k + 1) * y * n[k + 1] / n[k]
                    if 0 < d <= k:
                        found[k] = d
        return found

    def probability(self, token, context):
        """p(token | context), tokens as strings; unknown ones are <unk>."""
        known = set(self.vocabulary) | {B}
        token = token if token in known else U
        context = tuple(t if t in known else U for t in context)[-(self.order - 1):] if self.order > 1 else ()
        p = 1 / len(self.vocabulary)
        for size in range(len(context) + 1):
            here = context[len(context) - size:]
            if here in self.left:
                p = self.p.get((*here, token), 0.0) + self.left[here] * p
        return p

    def bits(self, row):
        """-log2 p of each token of a row and of its end."""
        every = [B, *row, E]
        return [-math.log2(self.probability(every[i], every[:i])) for i in range(1, len(every))]
