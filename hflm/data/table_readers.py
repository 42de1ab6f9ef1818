"""The texts of csv, parquet and arrow files, row by row; the part of hflm.data.readers that knows columns.

Each reader yields (number of the row, text or Bad); what a file's damage raises, hflm.data.readers.read turns into a
Bad.
"""

import csv
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from hflm.core import DataError
from hflm.data.readers import COMPRESSED, NOT_UTF8, Bad, check_names, checked, lines_of, opened, reason, valid

PARQUET_BATCH = 1000  # rows decoded at once, so that memory stays small however large a row group is
CSV_READ = "sep delimiter header names column_names skiprows skipinitialspace quotechar quoting escapechar doublequote"
# They change numbers and speed, never the text of a field.
CSV_OTHER = (
    "index_col usecols prefix mangle_dupe_cols engine true_values false_values na_values keep_default_na na_filter "
    "verbose skip_blank_lines thousands decimal memory_map float_precision chunksize date_format error_bad_lines "
    "warn_bad_lines lineterminator encoding encoding_errors features"
)


def read_csv(file, config, column):
    _refuse_csv_options(config)
    csv.field_size_limit(sys.maxsize)
    lines = lines_of(file, config, "")
    for _ in range(config.skiprows or 0):
        next(lines, None)
    seen = config.skiprows or 0  # lines read

    def text():
        nonlocal seen
        for seen, line in lines:
            yield line

    try:
        reader = csv.reader(
            text(),
            delimiter=config.sep,
            quotechar=config.quotechar,
            quoting=config.quoting,
            escapechar=config.escapechar,
            doublequote=config.doublequote,
            skipinitialspace=config.skipinitialspace,
            strict=True,  # else a quote that is never closed takes the rest of the file for one field
        )
    except TypeError as error:  # pandas knows separators of several characters, Python's csv does not
        raise DataError(
            f"{file}: a corpus in csv is read row by row: {error}. Change it, or convert the file"
        ) from error
    names, header = config.names, config.names is None or config.header == 0
    if names is not None:
        check_names(file, names, column)
    while True:
        number = seen + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lost = f" (lines {number:,} to {seen:,})" if seen > number else ""
            yield number, Bad(file, number, f"is not csv: {error}{lost}", ":")
            continue
        if not fields:
            continue
        if header:
            names, header = names or fields, False
            check_names(file, names, column)
            continue
        if len(fields) != len(names):
            yield number, Bad(file, number, f"has {len(fields)} fields, the header {len(names)}", ":")
            continue
        value = fields[names.index(column)]
        yield number, value if valid(value) else Bad(file, number, NOT_UTF8, ":")


def _refuse_csv_options(config):
    plain = type(config)()
    ours = {*CSV_READ.split(), *CSV_OTHER.split(), "name", "version", "data_dir", "data_files", "description"}
    odd = [key for key, value in vars(config).items() if key not in ours and value != getattr(plain, key)]
    if config.header not in ("infer", 0, None) or not isinstance(config.skiprows, int | None):
        odd.append("header" if config.header not in ("infer", 0, None) else "skiprows")
    if config.quoting == csv.QUOTE_NONNUMERIC:
        odd.append("quoting: 2")  # it would read each field without quotes as a number
    if odd:
        raise DataError(f"a corpus in csv is read row by row, without {', '.join(odd)}. Remove it, or convert the file")
    if config.header is None and config.names is None:
        raise DataError("`header: null` says that there is no header: give the columns' names as `names: [...]`")


def read_parquet(file, config, column):
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    with _seekable(file) as raw:
        # Without pre-buffering, so that a row group of a gigabyte is not held whole.
        whole = pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20)
        check_names(file, whole.schema_arrow.names, column)
        if config.filters is not None:
            chosen = pq.filters_to_expression(config.filters) if isinstance(config.filters, list) else config.filters
            fragment = ds.ParquetFileFormat().make_fragment(raw)
            batches = fragment.to_batches(columns=[column], filter=chosen, batch_size=PARQUET_BATCH, batch_readahead=0)
            yield from _column(file, batches, column, 0)
            return
        first = 0
        for group in range(whole.num_row_groups):
            rows = whole.metadata.row_group(group).num_rows
            last = first
            try:
                batches = whole.iter_batches(PARQUET_BATCH, row_groups=[group], columns=[column])
                for last, found in _column(file, batches, column, first):
                    yield last, found
            except (OSError, ArrowException) as error:  # this row group is damaged; the next one may be whole
                lost = f"to row {first + rows:,} cannot be read: {reason(error)}"
                yield last, Bad(file, last + 1, lost)
            first += rows


def read_arrow(file, config, column):
    import pyarrow as pa

    with _seekable(file) as raw:
        try:
            stream = pa.ipc.open_stream(raw)
            batches = iter(stream)
        except pa.ArrowInvalid:
            stream = pa.ipc.open_file(raw)
            batches = (stream.get_batch(number) for number in range(stream.num_record_batches))
        check_names(file, stream.schema.names, column)
        yield from _column(file, (batch.select([column]) for batch in batches), column, 0)


def _column(file, batches, column, before):
    """(number, text or Bad) of the first column of record batches; `before` rows lie before them."""
    number = before
    for batch in batches:
        for cell in batch.column(0):
            number += 1
            try:
                value = cell.as_py()
            except UnicodeDecodeError:
                yield number, Bad(file, number, f"column '{column}' {NOT_UTF8}")
            else:
                yield number, checked(file, number, value, column)


@contextmanager
def _seekable(file):
    """The file, or where its name says that it is compressed a temporary file with its content."""
    with opened(file) as raw:
        if Path(str(file).split("?")[0]).suffix not in COMPRESSED:
            yield raw
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(raw, plain, 1 << 20)
            plain.seek(0)
            yield plain
