"""Parquet and Arrow files as streams of rows; a row group or batch belongs to the range in which it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from gristmill.data.formats.json_records import Broken
from gristmill.data.inputs import DAMAGE

BATCH_ROWS = 128
"""Rows that are in memory at a time: with texts of a few kB a matter of a MB, with whole books one of a hundred."""
_STREAM_MARK = b"\xff\xff\xff\xff"
"""How an Arrow stream (as `datasets` writes it) begins; a file begins with ARROW1."""
Choose = Callable[[list[str]], list[str]]
"""From the names of a table's columns to those that are needed; may raise UserError."""


def parquet_rows(stream: IO[bytes], size: int, start: int, stop: int | None,
                 choose: Choose) -> Iterator[tuple[int, Any]]:
    """(row of the file, record or Broken) of the row groups that begin in bytes [start, stop).

    A damaged row group is one Broken; the others are still read. Damage to the file itself raises one of `DAMAGE`.
    """
    with pq.ParquetFile(pa.PythonFile(stream, "r"), pre_buffer=False, buffer_size=1 << 20) as file:
        wanted = choose(file.schema_arrow.names)
        row = 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if in_range(_offset(group), size, start, stop):
                yield from _rows(file.iter_batches(BATCH_ROWS, row_groups=[number], columns=wanted), row,
                                 f"row group {number}")
            row += group.num_rows


def arrow_rows(stream: IO[bytes], size: int, start: int, stop: int | None,
               choose: Choose) -> Iterator[tuple[int, Any]]:
    """The same for Arrow IPC: a file (Feather) can be read in parts, a stream only as a whole."""
    head = stream.read(6)
    stream.seek(0)
    source = pa.PythonFile(stream, "r")
    if head != b"ARROW1":
        if start == 0:
            with pa.ipc.open_stream(source) as reader:
                wanted = choose(reader.schema.names)
                yield from _rows((batch.select(wanted) for batch in reader), 0, "the stream")
        return
    with pa.ipc.open_file(source) as reader:
        count = reader.num_record_batches
        mine = [n for n in range(count) if in_range(size * n // count, size, start, stop)]
        wanted = choose(reader.schema.names)
    row = 0
    if mine and mine[0]:  # counting rows needs no column
        stream.seek(0)
        nothing = pa.ipc.IpcReadOptions(included_fields=[])
        with pa.ipc.open_file(source, options=nothing) as reader:
            row = sum(reader.get_batch(number).num_rows for number in range(mine[0]))
    fields = [number for number, name in enumerate(reader.schema.names) if name in wanted]
    with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields)) as reader:
        for number in mine:
            try:
                batch = reader.get_batch(number)
            except DAMAGE as error:
                yield row, Broken("unreadable_rows", f"batch {number}: {_line(error)}")
                continue
            yield from _rows(iter([batch]), row, f"batch {number}")
            row += batch.num_rows


def in_range(offset: int, size: int, start: int, stop: int | None) -> bool:
    """Does what begins at `offset` belong to the range? An impossible offset counts as the nearest possible one."""
    offset = min(max(offset, 0), max(size - 1, 0))
    return start <= offset and (stop is None or offset < stop)


def _offset(group: Any) -> int:
    """Where a row group begins."""
    starts = [group.column(number).data_page_offset for number in range(group.num_columns)]
    starts += [offset for number in range(group.num_columns)
               if (offset := group.column(number).dictionary_page_offset) is not None and offset > 0]
    return int(min(starts, default=0))


def _rows(batches: Iterator[pa.RecordBatch], row: int, what: str) -> Iterator[tuple[int, Any]]:
    while True:
        try:
            batch = next(batches)
            batch.validate(full=True)  # a damaged file may hold offsets that point outside its buffers
        except StopIteration:
            return
        except DAMAGE as error:
            yield row, Broken("unreadable_rows", f"{what}, from row {row}: {_line(error)}")
            return
        for first in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(first, BATCH_ROWS)
            try:
                records: list[Any] = part.to_pylist()
            except (ValueError, OverflowError):  # a time outside Python's, bytes that are no UTF-8
                records = [_one(part, number, row + number) for number in range(part.num_rows)]
            for record in records:
                yield row, record
                row += 1


def _one(batch: pa.RecordBatch, number: int, row: int) -> Any:
    try:
        return batch.slice(number, 1).to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Broken("broken_record", f"row {row}: {_line(error)}")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
