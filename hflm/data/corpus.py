"""Documents of any number of sources, mixed by weight, in memory or streamed; held-out text; what each source gave.

One stream of rows serves both: a corpus in memory is that stream read to its end, so that both hold the same documents
in the same order. Its state can be saved and restored (`datasets.IterableDataset.state_dict`).
"""

import hashlib
import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hflm.core import DataError
from hflm.data import load as data
from hflm.data import readers as rows
from hflm.data import source_stats as shares
from hflm.data import splits, toy

MOST_ROWS_SHOWN = 10
STREAM_SAMPLE = 20_000  # documents of a stream that are looked at for held-out text and for what each source gives
PIECE = 1 << 16  # characters of running text in one piece


@dataclass(frozen=True)
class Sources:
    """What `pretrain:` says about its data: a tuple of Data, their text column, how rows become texts.

    `key` is where the recipe says it: "pretrain.data", "pretrain.validation", "tokenizer.train.data".
    """

    data: tuple
    key: str = "pretrain.data"
    text: str = "text"
    rows: str = "documents"
    seed: int = 0
    on_bad_row: str = "error"

    @property
    def streamed(self):
        return any(each.options.get("streaming") for each in self.data)

    @property
    def keys(self):
        """The keys of the single sources, as environment.json names them."""
        return (
            (self.key,)
            if self.key == "pretrain.validation"
            else tuple(f"{self.key}.{number}" for number in range(len(self.data)))
        )

    def __str__(self):
        return ", ".join(data.where(each, "train") for each in self.data)


@dataclass(frozen=True)
class Read:
    """Documents in memory (list of strings), what each source gave, and the rows.Bad that were left out.

    `cleaning` is the report of what cleaned them.
    """

    texts: list
    given: tuple
    skipped: tuple
    cleaning: object = None


@dataclass(frozen=True)
class Stream:
    """The documents of a streamed corpus, read anew each time it is iterated.

    `dataset` is a datasets.IterableDataset of {"text": str, "source": int}; `source` is an index into `Sources.data`.
    """

    dataset: object
    where: str
    column: str = "text"

    def __iter__(self):
        return (row[self.column] for row in self.dataset)


def read(sources, clean=None):
    """All texts of `sources`, as Read.

    Without weights the sources follow each other; with weights each next document comes from a source drawn in
    proportion, until every source has been read once (`datasets.interleave_datasets`, `all_exhausted`).
    `rows: documents` gives each row that is not blank; `rows: lines` gives the rows as one running text, in pieces of
    about 64 kB that end at line ends, so that `"".join(texts)` is the text with every row closed by one newline.
    `clean(texts)` gives (numbers of the texts that stay, those texts, its report). Documents are cleaned before they are
    mixed: what a mixture repeats for its weight is no duplicate.
    Raises DataError, with up to MOST_ROWS_SHOWN bad rows by file and row.
    """
    later = clean is not None and sources.rows == "documents" and sources.data[0].weight is not None
    first = replace(sources, data=tuple(each.model_copy(update={"weight": None}) for each in sources.data))
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "skipped.jsonl"
        mixed = _mixed(first if later else sources, listed, at_once=MOST_ROWS_SHOWN)
        found = list(_texts(mixed, sources.rows))
        bad = shares.skipped(listed)
    there = {source for _, source in found}
    told = {each.source for each in bad}  # a source of which all was left out is listed there
    empty = [
        data.where(each, "train")
        for number, (each, key) in enumerate(zip(sources.data, sources.keys, strict=True))
        if number not in there and not (found and key in told)
    ]
    if empty:
        left_out = f" ({len(bad):,} bad rows were left out)" if bad else ""
        raise DataError("\n".join(f"{where}: no text in it{left_out}" for where in empty))
    report = None
    if clean is not None:
        numbers, texts, report = clean([text for text, _ in found])
        found = [(text, found[number][1]) for number, text in zip(numbers, texts, strict=True)]
        if later:
            found = _remixed(found, sources)
    counts = shares.Counts(sources.keys)
    for text, source in found:
        counts.add(text, source)
    return Read([text for text, _ in found], counts.given(), bad, report)


def stream(sources, listed, held_out=None):
    """The Stream of `sources`; `held_out` is the share of documents, by their hash, that it leaves out.

    Bad rows end it, or with `on_bad_row: skip` are appended to the file `listed` as they are met, in any process.
    """
    if sources.rows == "lines":
        raise DataError(f"{sources}: a stream is read by documents. Remove `rows: lines` or `streaming`")
    return Stream(_mixed(sources, listed, held_out=held_out), str(sources))


def sample(sources, held_out=None):
    """Read of the first STREAM_SAMPLE documents of a stream; `texts` are those of them that belong to validation."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "skipped.jsonl"
        counts, kept = shares.Counts(sources.keys), []
        for row in itertools.islice(_mixed(sources, listed), STREAM_SAMPLE):
            counts.add(row["text"], row["source"])
            if held_out is not None and draw(row["text"]) < held_out:
                kept.append(row["text"])
        return Read(kept, counts.given(), shares.skipped(listed))


def held_out(documents, share, rows):
    """Split documents into (train, validation).

    By the hash of each document, so that adding data never moves one from validation to train; a running text
    (`rows: lines`) is cut once, near its end.
    """
    if rows == "lines":
        cut = max(1, round(len(documents) * share))
        return documents[:-cut], documents[-cut:]
    train, validation = [], []
    for document in documents:
        (validation if draw(document) < share else train).append(document)
    return train, validation


def draw(document):
    """A number from 0 to below 1 that depends on the document's text alone."""
    return int.from_bytes(hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def _mixed(sources, listed, at_once=1, held_out=None):
    """The IterableDataset of {"text", "source"} of all sources; blank documents are left out."""
    import datasets

    loaded = [
        _source(each, number, sources, str(listed), at_once, held_out) for number, each in enumerate(sources.data)
    ]
    if len(loaded) == 1:
        return loaded[0]
    if sources.data[0].weight is None:
        return datasets.concatenate_datasets(loaded)
    return _interleaved(loaded, sources)


def _interleaved(loaded, sources):
    import datasets

    total = sum(each.weight for each in sources.data)
    weights = [each.weight / total for each in sources.data]
    return datasets.interleave_datasets(loaded, weights, seed=sources.seed, stopping_strategy="all_exhausted")


def _remixed(found, sources):
    """(text, source) pairs that follow each other by source, in the order in which a mixture would have drawn them."""
    import datasets

    parts = [[] for _ in sources.data]
    for text, source in found:
        parts[source].append({"text": text, "source": source})
    empty = [data.where(each, "train") for each, part in zip(sources.data, parts, strict=True) if not part]
    if empty:
        raise DataError(f"pretrain.clean leaves nothing of {', '.join(empty)}. Ask for less, or remove the source")
    loaded = [datasets.Dataset.from_list(part).to_iterable_dataset() for part in parts]
    if len(loaded) == 1:
        return found
    return [(row["text"], row["source"]) for row in _interleaved(loaded, sources)]


def _source(each, number, sources, listed, at_once, held_out):
    """One source as an IterableDataset: a shard a file, or one shard where its `split` names a slice."""
    import datasets

    parts = []
    for part in splits.parts(each.options.get("split", "train")):
        name, begin, end = splits.bounds(part)
        if each.path == "toy":
            options = {key: value for key, value in each.options.items() if key not in ("name", "split", "streaming")}
            files, config = [name], {"name": each.options.get("name", "stories"), **options}
        else:
            config, files = data.files(each, name)
        arguments = {
            "config": config,
            "number": number,
            "key": sources.keys[number],
            "column": each.text or sources.text,
            "blank": sources.rows == "lines",
            "held_out": held_out,
            "skips": sources.on_bad_row == "skip",
            "listed": listed,
            "at_once": at_once,
            "piece": None,
        }
        if begin or end:
            length = None
            if any("-" in bound or "%" in bound for bound in (begin, end)):
                if sources.streamed:
                    raise DataError(
                        f"{each.path} [{part}]: a stream has no known length. Count from its beginning, "
                        "such as train[:2000]"
                    )
                length = sum(1 for file in files for _ in _rows(file, config, arguments["column"]))
            arguments["piece"] = tuple(splits.row(bound, length) for bound in (begin, end))
            files = tuple(files)  # datasets shards lists only, and a slice counts through all files
        features = None  # datasets checks each row against them, which takes longer than reading it
        if len(sources.data) > 1 or "+" in each.options.get("split", ""):
            # Without them it would read a first row of each source before mixing, and fail at an empty one.
            features = datasets.Features({"text": datasets.Value("string"), "source": datasets.Value("int32")})
        parts.append(
            datasets.IterableDataset.from_generator(
                _documents, features=features, gen_kwargs={"files": files, **arguments}
            )
        )
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _documents(files, config, number, key, column, blank, held_out, skips, listed, at_once, piece):
    """The rows of some files of one source: a generator that datasets runs, in whichever process."""
    found = ((file, row) for file in files for row in _rows(file, config, column))
    if piece is not None:
        found = itertools.islice(found, *piece)
    problems, last = [], None
    for file, row in found:
        if problems and file != last:
            break
        last = file
        if isinstance(row, str):
            if not problems and (blank or row.strip()) and (held_out is None or draw(row) >= held_out):
                yield {"text": row, "source": number}
        elif skips:
            shares.leave_out(replace(row, source=key), listed)
        else:
            problems.append(str(row))
            if len(problems) >= at_once:
                break
    if problems:
        closing = "Mend the data, or leave such rows out with `on_bad_row: skip`"
        raise DataError("\n".join([f"{problems[0]}", *problems[1:], closing]))


def _rows(file, config, column):
    return _of_toy(file, config, column) if isinstance(config, dict) else rows.read(file, config, column)


def _of_toy(split, config, column):
    options = {key: value for key, value in config.items() if key != "name"}
    for number, row in enumerate(toy.rows(config["name"], split, **options), 1):
        if column not in row:
            raise DataError(f"toy {config['name']}: no column '{column}'; it has: {', '.join(row)}")
        yield row[column] if isinstance(row[column], str) else rows.Bad(f"toy {config['name']}", number, "is no text")


def _texts(mixed, kind):
    """(text, source) of each document, or of each piece of running text; a piece is of one source."""
    if kind == "documents":
        yield from ((row["text"], row["source"]) for row in mixed)
        return
    piece, size, source = [], 0, 0
    for row in mixed:
        if piece and (size > PIECE or row["source"] != source):
            yield "".join(piece), source
            piece, size = [], 0
        piece.append(row["text"].removesuffix("\n") + "\n")
        size += len(row["text"])
        source = row["source"]
    if piece:
        yield "".join(piece), source
