"""How each kind of file is read: the options of datasets' builders that change a row's text."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hflm.core import DataError


@dataclass(frozen=True)
class TextOptions:
    encoding: str | None = None
    encoding_errors: str | None = None
    keep_linebreaks: bool = False
    sample_by: str = "line"


@dataclass(frozen=True)
class JsonOptions:
    encoding: str | None = None
    encoding_errors: str | None = None
    field: str | None = None


@dataclass(frozen=True)
class CsvOptions:
    encoding: str | None = None
    encoding_errors: str | None = None
    sep: str = ","
    header: int | str | None = "infer"
    names: tuple[str, ...] | None = None
    skiprows: int | None = None
    skipinitialspace: bool = False
    quotechar: str = '"'
    quoting: int = csv.QUOTE_MINIMAL
    escapechar: str | None = None
    doublequote: bool = True


@dataclass(frozen=True)
class ParquetOptions:
    filters: Any = None


@dataclass(frozen=True)
class ArrowOptions:
    pass


FileOptions = TextOptions | JsonOptions | CsvOptions | ParquetOptions | ArrowOptions
OPTIONS = {
    "text": TextOptions,
    "json": JsonOptions,
    "csv": CsvOptions,
    "parquet": ParquetOptions,
    "arrow": ArrowOptions,
}
# Of pandas' options these would change how numbers are parsed, or the speed, never the text of a cell.
CSV_IGNORED = (
    "index_col usecols prefix mangle_dupe_cols engine true_values false_values na_values keep_default_na "
    "na_filter verbose skip_blank_lines thousands decimal memory_map float_precision chunksize "
    "date_format error_bad_lines warn_bad_lines lineterminator features"
)
CSV_DEFAULTS = {"skipfooter": 0, "on_bad_lines": "error"}


def make_options(kind: str, builder_options: Mapping[str, Any]) -> FileOptions:
    """The options of a kind of file, from the options of datasets' builder that are not at their default.

    Raises DataError for those of pandas that cannot be followed where a csv file is read row by row.
    """
    known = OPTIONS[kind].__dataclass_fields__
    values: dict[str, Any] = {
        key: value for key, value in builder_options.items() if key in known and (value is not None or key == "header")
    }
    if kind != "csv":
        return OPTIONS[kind](**values)
    for alias, key in (("delimiter", "sep"), ("column_names", "names")):
        if builder_options.get(alias) is not None:
            values[key] = builder_options[alias]
    if values.get("names") is not None:
        values["names"] = tuple(values["names"])
    ours = {*known, "delimiter", "column_names", *CSV_IGNORED.split()}
    refused = [key for key, value in builder_options.items() if key not in ours and value != CSV_DEFAULTS.get(key)]
    if values.get("header", "infer") not in ("infer", 0, None):
        refused.append("header")
    if not isinstance(values.get("skiprows"), int | None):
        refused.append("skiprows")
    if values.get("quoting") == csv.QUOTE_NONNUMERIC:
        refused.append("quoting: 2")  # it would read each field without quotes as a number
    if refused:
        raise DataError(f"csv is read row by row, without {', '.join(refused)}. Remove it, or convert the file")
    if values.get("header", "infer") is None and values.get("names") is None:
        raise DataError("`header: null` says that there is no header: give the columns' names as `names: [...]`")
    return CsvOptions(**values)
