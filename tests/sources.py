"""The same three texts as a file of any kind, plain or compressed, for tests."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq

from hflm.data import resolve_data
from hflm.recipe import Data

TEXTS = ["first, one", "zwei\tNA", "三 \U0001f600"]


def zstd(content):
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as out:
        out.write(content)
    return packed.getvalue().to_pybytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress, ".bz2": bz2.compress}
KINDS = ("txt", "jsonl", "json", "csv", "tsv", "parquet", "arrow")


def content(kind, texts=TEXTS):
    """The bytes of a file of `kind` that holds `texts` in its column `text`, and numbers in another one."""
    rows = [{"n": n, "text": text} for n, text in enumerate(texts)]
    out = io.StringIO()
    if kind == "txt":
        out.writelines(text + "\n" for text in texts)
    elif kind == "jsonl":
        out.writelines(json.dumps(row) + "\n" for row in rows)
    elif kind == "json":
        json.dump(rows, out, indent=1)
    elif kind in ("csv", "tsv"):
        writer = csv.DictWriter(out, ("n", "text"), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    else:
        return columns(kind, pa.table({"n": list(range(len(texts))), "text": list(texts)}))
    return out.getvalue().encode()


def columns(kind, table, **options):
    """The bytes of an Arrow table as parquet or arrow."""
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out, **options)
    else:
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    return out.getvalue()


def source(path, **options):
    """A data set as the pipeline hands it on: its files are those that are there now."""
    return resolve_data(Data.model_validate({"path": str(path), **options}))
