"""The documents of a corpus of any number of sources, in memory or streamed; statistics of its sources."""

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import DataError, progress
from hflm.data.files import file_kind
from hflm.data.held_out import text_fraction
from hflm.data.mixture import mix_documents, mix_sources
from hflm.data.readers import BadRow
from hflm.data.source import ResolvedData, describe_source
from hflm.data.source_stats import SourceCounter, SourceStats, read_skipped

if TYPE_CHECKING:
    from datasets import IterableDataset

    from hflm.data.cleaning import CleaningReport

MOST_ROWS_SHOWN = 10
STREAM_SAMPLE = 20_000  # documents of a stream that are looked at for held-out text and for the sources' statistics
SEGMENT = 1 << 16  # characters of running text in one text
FEW_WORDS = 12  # a median document below that is a line of prose, not a document

# texts -> (numbers of the texts that stay, those texts, report)
Cleaner = Callable[[list[str]], "tuple[list[int], list[str], CleaningReport]"]


@dataclass(frozen=True)
class Sources:
    """What `pretrain:` says about its data: its sources, their text column, how rows become texts.

    `key` is where the recipe says it: "pretrain.data", "pretrain.validation" or, of several sets, "pretrain.validation.NAME",
    "tokenizer.train.data".
    """

    data: tuple[ResolvedData, ...]
    key: str = "pretrain.data"
    text: str = "text"
    rows: str = "documents"
    seed: int = 0
    on_bad_row: str = "error"

    @property
    def streamed(self) -> bool:
        return any(each.source.options.get("streaming") for each in self.data)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the single sources, as environment.json names them."""
        if self.key.startswith("pretrain.validation"):
            return (self.key,)
        return tuple(f"{self.key}.{number}" for number in range(len(self.data)))

    def __str__(self) -> str:
        return ", ".join(describe_source(each, "train") for each in self.data)


@dataclass(frozen=True)
class Documents:
    """Documents in memory, statistics of each source, and the rows that were left out.

    `cleaning` is the report of what cleaned them.
    """

    texts: list[str]
    statistics: tuple[SourceStats, ...]
    skipped: tuple[BadRow, ...]
    cleaning: "CleaningReport | None" = None


@dataclass(frozen=True)
class DocumentStream:
    """The documents of a streamed corpus, read anew each time it is iterated.

    `dataset` holds {"text": str, "source": int}; `source` is an index into `Sources.data`.
    """

    dataset: "IterableDataset"
    where: str
    column: str = "text"

    def __iter__(self) -> Iterator[str]:
        return (row[self.column] for row in self.dataset)


def read_documents(sources: Sources, clean: Cleaner | None = None) -> Documents:
    """All texts of `sources`, mixed by weight as `mix_sources` says.

    `rows: documents` makes each row that is not blank a text; `rows: lines` makes the rows one running text, in texts
    of about 64 kB that end at line ends, so that `"".join(texts)` is the text with every row closed by one newline.
    Documents are cleaned before they are mixed: what a mixture repeats for its weight is no duplicate.
    Raises DataError, with up to MOST_ROWS_SHOWN bad rows by file and row.
    """
    mixes_later = clean is not None and sources.rows == "documents" and sources.data[0].source.weight is not None
    unweighted = [replace(each, source=each.source.model_copy(update={"weight": None})) for each in sources.data]
    with tempfile.TemporaryDirectory() as folder:
        skipped = Path(folder) / "skipped.jsonl"
        mixed = mix_sources(
            replace(sources, data=tuple(unweighted)) if mixes_later else sources, skipped, at_once=MOST_ROWS_SHOWN
        )
        documents = list(progress(_texts(mixed, sources.rows), f"reading {sources}", "texts", step=1000))
        bad = read_skipped(skipped)
    _check_not_empty(sources, documents, bad)
    report = None
    if clean is not None:
        numbers, texts, report = clean([text for text, _ in documents])
        documents = [(text, documents[number][1]) for number, text in zip(numbers, texts, strict=True)]
        if mixes_later:
            documents = mix_documents(documents, sources)
    counter = SourceCounter(sources.keys)
    for text, source in documents:
        counter.add(text, source)
    return Documents([text for text, _ in documents], counter.statistics(), bad, report)


def stream_documents(sources: Sources, skipped: Path, held_out: float | None = None) -> DocumentStream:
    """The stream of `sources`; `held_out` is the fraction of documents, by their hash, that it leaves out.

    Bad rows end it, or with `on_bad_row: skip` are appended to the file `skipped` as they are met, in any process.
    """
    if sources.rows == "lines":
        raise DataError(f"{sources}: a stream is read by documents. Remove `rows: lines` or `streaming`")
    return DocumentStream(mix_sources(sources, skipped, held_out=held_out), str(sources))


def sample_stream(sources: Sources, held_out: float | None = None, count: int = STREAM_SAMPLE) -> Documents:
    """The first `count` documents of a stream; `texts` are those of them that belong to validation."""
    with tempfile.TemporaryDirectory() as folder:
        skipped = Path(folder) / "skipped.jsonl"
        counter = SourceCounter(sources.keys)
        validation: list[str] = []
        first = itertools.islice(mix_sources(sources, skipped), count)
        for row in progress(first, f"reading the beginning of {sources}", "texts", step=100):
            counter.add(row["text"], row["source"])
            if held_out is not None and text_fraction(row["text"]) < held_out:
                validation.append(row["text"])
        return Documents(validation, counter.statistics(), read_skipped(skipped))


def describe_lengths(texts: list[str]) -> str:
    """How long some documents are.

    >>> describe_lengths(["To be, or not to be", "Aside.", "Exeunt."])
    'median 1 words (7 characters), longest 19 characters'
    """
    characters = sorted(map(len, texts))
    return (
        f"median {_median_words(texts):,} words ({characters[len(texts) // 2]:,} characters), "
        f"longest {characters[-1]:,} characters"
    )


def warn_of_lines(sources: Sources, texts: list[str]) -> str | None:
    """A warning where each line of a txt file became a document of few words, or None."""
    by_line = [
        each.source.path
        for each in sources.data
        if each.source.options.get("sample_by", "line") == "line" and _is_plain_text(each)
    ]
    if sources.rows == "lines" or not by_line or _median_words(texts) >= FEW_WORDS:
        return None
    return (
        f"{', '.join(by_line)}: each line is a document of its own, and half of the {len(texts):,} "
        f"have {_median_words(texts)} words or fewer. For prose set `sample_by: paragraph` (between blank lines) or "
        "`sample_by: document` (a file) next to the path; for one running text set `rows: lines`"
    )


def _median_words(texts: list[str]) -> int:
    return round(statistics.median(len(text.split()) for text in texts))


def _is_plain_text(data: ResolvedData) -> bool:
    return data.source.path == "text" or any(file_kind(file) == "text" for file in data.files[:1])


def _check_not_empty(sources: Sources, documents: list[tuple[str, int]], bad: tuple[BadRow, ...]) -> None:
    """Raises DataError for sources without any text; one of which all was left out may be listed in `skipped_rows.jsonl` instead."""
    with_text, with_bad_rows = {source for _, source in documents}, {each.source for each in bad}
    empty = [
        describe_source(data, "train")
        for number, (data, key) in enumerate(zip(sources.data, sources.keys, strict=True))
        if number not in with_text and not (documents and key in with_bad_rows)
    ]
    if empty:
        left_out = f" ({len(bad):,} bad rows were left out)" if bad else ""
        raise DataError("\n".join(f"{where}: no text in it{left_out}" for where in empty))


def _texts(mixed: Iterable[dict[str, Any]], rows: str) -> Iterator[tuple[str, int]]:
    """(text, source) of each document, or of each segment of running text; a segment is of one source."""
    if rows == "documents":
        yield from ((row["text"], row["source"]) for row in mixed)
        return
    segment: list[str] = []
    size = source = 0
    for row in mixed:
        if segment and (size > SEGMENT or row["source"] != source):
            yield "".join(segment), source
            segment, size = [], 0
        segment.append(row["text"].removesuffix("\n") + "\n")
        size += len(row["text"])
        source = row["source"]
    if segment:
        yield "".join(segment), source
