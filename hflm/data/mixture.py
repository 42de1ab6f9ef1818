"""A mixture of sources as one datasets.IterableDataset of {"text", "source"}, whose position can be saved and restored.

Nothing else reads a corpus, so that a list in memory holds the same documents in the same order as a stream.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import DataError
from hflm.data import splits
from hflm.data.held_out import text_fraction
from hflm.data.load import ToyRows, split_files, toy_rows, unusable_cache
from hflm.data.readers import BadRow, read_texts
from hflm.data.source import ResolvedData, SplitFiles, describe_source
from hflm.data.source_stats import record_skipped

if TYPE_CHECKING:
    from datasets import IterableDataset

    from hflm.data.corpus import Sources

Text = str | BadRow


def mix_sources(
    sources: "Sources", skipped: Path, at_once: int = 1, held_out: float | None = None
) -> "IterableDataset":
    """The documents of all sources that are not blank.

    Without weights the sources follow each other; with weights each next document comes from a source drawn in
    proportion, until every source has been read once (`all_exhausted`). Bad rows end it, `at_once` of a file together,
    or are appended to the file `skipped` as they are met. `held_out` is the fraction of documents to leave out.
    """
    import datasets

    datasets_of_sources = [
        _source_dataset(data, number, sources, skipped, at_once, held_out) for number, data in enumerate(sources.data)
    ]
    if len(datasets_of_sources) == 1:
        return datasets_of_sources[0]
    if sources.data[0].source.weight is None:
        return datasets.concatenate_datasets(datasets_of_sources)
    return _interleave(datasets_of_sources, sources)


def mix_documents(documents: Sequence[tuple[str, int]], sources: "Sources") -> list[tuple[str, int]]:
    """(text, source) pairs that follow each other by source, in the order in which a mixture would have drawn them."""
    import datasets

    parts: list[list[dict[str, Any]]] = [[] for _ in sources.data]
    for text, source in documents:
        parts[source].append({"text": text, "source": source})
    empty = [describe_source(data, "train") for data, part in zip(sources.data, parts, strict=True) if not part]
    if empty:
        raise DataError(f"pretrain.clean leaves nothing of {', '.join(empty)}. Ask for less, or remove the source")
    if len(parts) == 1:
        return list(documents)
    mixed = _interleave([datasets.Dataset.from_list(part).to_iterable_dataset() for part in parts], sources)
    return [(row["text"], row["source"]) for row in mixed]


def _interleave(of_sources: list["IterableDataset"], sources: "Sources") -> "IterableDataset":
    import datasets

    weights = [data.source.weight or 0.0 for data in sources.data]
    total = sum(weights)
    return datasets.interleave_datasets(
        of_sources, [weight / total for weight in weights], seed=sources.seed, stopping_strategy="all_exhausted"
    )


def _source_dataset(
    data: ResolvedData, number: int, sources: "Sources", skipped: Path, at_once: int, held_out: float | None
) -> "IterableDataset":
    """One source: a shard a file, or one shard where its `split` names a slice."""
    import datasets

    features = None  # datasets checks each row against them, which takes longer than reading it
    if len(sources.data) > 1 or "+" in data.source.options.get("split", ""):
        # Without them it would read a first row of each source before mixing, and fail at an empty one.
        features = datasets.Features({"text": datasets.Value("string"), "source": datasets.Value("int32")})
    fixed = {
        "number": number,
        "key": sources.keys[number],
        "column": data.source.text or sources.text,
        "keeps_blank": sources.rows == "lines",
        "held_out": held_out,
        "skips": sources.on_bad_row == "skip",
        "skipped": str(skipped),
        "at_once": at_once,
    }
    parts = []
    for part in splits.split_parts(data.source.options.get("split", "train")):
        shards, bounds = _shards(data, part, sources.streamed, fixed["column"])
        # datasets shards lists only, and a slice counts through all files.
        arguments = {"shards": shards if bounds is None else tuple(shards), "bounds": bounds, **fixed}
        try:
            parts.append(datasets.IterableDataset.from_generator(_documents, features=features, gen_kwargs=arguments))
        except OSError as error:
            raise unusable_cache(error) from error
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


Shard = ToyRows | SplitFiles


def _shards(
    data: ResolvedData, part: str, streamed: bool, column: str
) -> tuple[list[Shard], tuple[int | None, int | None] | None]:
    """(a shard a file of one part of a split, the rows where a slice of it begins and ends)."""
    name, begin, end = splits.split_bounds(part)
    shards: list[Shard]
    if data.source.path == "toy":
        shards = [toy_rows(data, name)]
    else:
        source = split_files(data, name)
        shards = [replace(source, files=(file,)) for file in source.files]
    if not begin and not end:
        return shards, None
    length = None
    if splits.needs_length(begin, end):
        if streamed:
            raise DataError(
                f"{data.source.path} [{part}]: a stream has no known length. Count from its beginning, such as train[:2000]"
            )
        length = sum(1 for shard in shards for _ in _texts(shard, column))
    return shards, (splits.bound_to_row(begin, length), splits.bound_to_row(end, length))


def _documents(
    shards: Iterable[Shard],
    bounds: tuple[int | None, int | None] | None,
    number: int,
    key: str,
    column: str,
    keeps_blank: bool,
    held_out: float | None,
    skips: bool,
    skipped: str,
    at_once: int,
) -> Iterator[dict[str, Any]]:
    """The rows of some shards of one source: a generator that datasets runs, in whichever process."""
    rows = ((shard, text) for shard in shards for text in _texts(shard, column))
    problems: list[str] = []
    last = None
    for shard, text in rows if bounds is None else itertools.islice(rows, *bounds):
        if problems and shard is not last:
            break
        last = shard
        if isinstance(text, str):
            wanted = (keeps_blank or text.strip()) and (held_out is None or text_fraction(text) >= held_out)
            if wanted and not problems:
                yield {"text": text, "source": number}
        elif skips:
            record_skipped(replace(text, source=key), Path(skipped))
        else:
            problems.append(str(text))
            if len(problems) >= at_once:
                break
    if problems:
        closing = "Fix the data, or leave such rows out with `on_bad_row: skip`"
        raise DataError("\n".join([problems[0], *problems[1:], closing]))


def _texts(shard: Shard, column: str) -> Iterator[Text]:
    if isinstance(shard, ToyRows):
        return _toy_texts(shard, column)
    return (text for file in shard.files for text in read_texts(file, shard.options, column))


def _toy_texts(rows: ToyRows, column: str) -> Iterator[Text]:
    for row in rows:
        if column not in row:
            raise DataError(f"toy {rows.name}: no column '{column}'; it has: {', '.join(row)}")
        text = row[column]
        yield text if isinstance(text, str) else BadRow(f"toy {rows.name}", row.location.number, "is no text")
