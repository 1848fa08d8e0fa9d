import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from gristmill.data.documents import SCHEMA, Document, parquet_bytes, row, write_shard


def test_equal_rows_give_equal_bytes_however_they_were_batched(tmp_path: Path) -> None:
    rows = [row(Document(f"d{i}", f"text {i} \u2028", "files"), split="train") for i in range(50)]
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    parts = pa.concat_tables([whole.slice(0, 7), whole.slice(7)])
    assert parquet_bytes(parts.combine_chunks()) == parquet_bytes(whole)
    write_shard(tmp_path / "a.parquet", rows)
    assert (tmp_path / "a.parquet").read_bytes() == parquet_bytes(whole)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_the_room_is_cheap_to_import() -> None:
    code = """
import sys
from gristmill.data.python_code import functions
functions("x = 1")
print([m for m in ("pyarrow", "pydantic", "torch", "numpy") if m in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
