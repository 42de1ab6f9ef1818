"""Parquet and arrow files: values keep their types."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from hflm.data.readers.base import (
    CHUNK,
    COMPRESSED,
    NOT_UTF8,
    BadRow,
    Columns,
    Row,
    Rows,
    error_reason,
    file_suffix,
    open_file,
)
from hflm.data.readers.json import with_booleans
from hflm.data.readers.options import ArrowOptions, ParquetOptions

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_BATCH = 1000  # rows decoded at once, so that memory stays small however large a row group is


def read_parquet(file: str, options: ParquetOptions, columns: Columns) -> Rows:
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    with _seekable(file) as raw:
        # Without pre-buffering, so that a row group of a gigabyte is not held whole.
        parquet = pq.ParquetFile(raw, pre_buffer=False, buffer_size=CHUNK)
        chosen = _chosen(parquet.schema_arrow.names, columns)
        if options.filters is not None:
            filters = options.filters
            condition = pq.filters_to_expression(filters) if isinstance(filters, list) else filters
            fragment = ds.ParquetFileFormat().make_fragment(raw)
            batches = fragment.to_batches(columns=chosen, filter=condition, batch_size=PARQUET_BATCH, batch_readahead=0)
            yield from _rows(file, batches, columns, 0)
            return
        first = 0
        for group in range(parquet.num_row_groups):
            last, end = first, first + parquet.metadata.row_group(group).num_rows
            try:
                batches = parquet.iter_batches(PARQUET_BATCH, row_groups=[group], columns=chosen)
                for rows in _rows(file, batches, columns, first):
                    yield rows
                    last += len(rows)
            except (OSError, ArrowException) as error:  # this row group is damaged; the next one may be intact
                yield [BadRow(file, last + 1, f"to row {end:,} cannot be read: {error_reason(error)}")]
            first = end


def read_arrow(file: str, options: ArrowOptions, columns: Columns) -> Rows:
    import pyarrow as pa

    with _seekable(file) as raw:
        try:
            stream = pa.ipc.open_stream(raw)
            batches = iter(stream)
        except pa.ArrowInvalid:
            stream = pa.ipc.open_file(raw)
            batches = (stream.get_batch(number) for number in range(stream.num_record_batches))
        chosen = _chosen(stream.schema.names, columns)
        yield from _rows(file, (batch.select(chosen) for batch in batches), columns, 0)


def _chosen(names: Sequence[str], columns: Columns) -> list[str]:
    """The columns to decode: those of `columns`, or all where one is missing, so that a message can list them."""
    if columns is None or not set(columns) <= set(names):
        return list(names)
    return [name for name in names if name in columns]


def _rows(file: str, batches: Iterable["pa.RecordBatch"], columns: Columns, first: int) -> Rows:
    """The rows of record batches; `first` rows come before them."""
    before = first
    for batch in batches:
        try:
            rows: Iterable[dict[str, Any] | BadRow] = batch.to_pylist()
        except UnicodeDecodeError:
            rows = _cell_by_cell(file, batch, columns, before)
        converts = any("bool" in str(field.type) for field in batch.schema)
        yield [
            row
            if isinstance(row, BadRow)
            else Row.of(with_booleans(row) if converts else row, (file, ", row ", number))
            for number, row in enumerate(rows, before + 1)
        ]
        before += batch.num_rows


def _cell_by_cell(
    file: str, batch: "pa.RecordBatch", columns: Columns, before: int
) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a batch with text that is no UTF-8: a bad row where it is in one of `columns`, else None there."""
    for index in range(batch.num_rows):
        row, bad = {}, None
        for name, cells in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = cells[index].as_py()
            except UnicodeDecodeError:
                row[name] = None
                if columns is None or name in columns:
                    bad = bad or BadRow(file, before + index + 1, f"column '{name}' {NOT_UTF8}")
        yield bad or row


@contextmanager
def _seekable(file: str) -> Iterator[IO[bytes]]:
    """The file, or where its name says that it is compressed a temporary file with its content."""
    with open_file(file) as raw:
        if file_suffix(file) not in COMPRESSED:
            yield raw
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(raw, plain, CHUNK)
            plain.seek(0)
            yield plain
