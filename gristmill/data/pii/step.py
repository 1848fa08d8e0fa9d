"""Personal data in the rows of a file: masked, reported, or reason to leave rows out."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gristmill.data.normalise import is_code
from gristmill.data.pii.masking import examine
from gristmill.data.pii.options import REASON, Pii
from gristmill.data.steps import RowWriter, read_rows


def pii_rows(source: str, target: Path, rejects: Path | None, options: Pii, *, column: str = "text",
             advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Rows with what `options` says done to their text, and a column `pii` with the finds of each kind; what is dropped
    goes into `rejects`, masked. In rows whose `language` is that of a program only `CODE_KINDS` are looked for."""
    counts, kinds = Counter[str](), Counter[str]()
    with RowWriter(target) as kept, contextlib.ExitStack() as stack:
        gone = stack.enter_context(RowWriter(rejects)) if rejects else None
        for rows in read_rows(source, column, counts):
            stays, left = [], []
            for row in rows:
                code = is_code(str(row.get("language") or ""))
                found = examine(row[column], options, code=code)
                row["pii"] = {kind: found.counts.get(kind, 0) for kind in options.kinds}
                kinds.update(found.counts)
                counts["with_pii"] += bool(found.counts)
                row[column] = found.text
                if found.dropped:
                    left.append({**row, "reason": REASON, "detail": found.detail})
                else:
                    stays.append(row)
            counts["dropped"] += len(left)
            kept.write(stays)
            if gone:
                gone.write(left)
            advance(len(rows))
    counts["kept"] = counts["read"] - counts["dropped"]
    return {**counts, "reasons": dict(kinds.most_common())}
