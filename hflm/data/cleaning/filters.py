"""Clean a corpus as `pretrain.clean` says: normalize its text, leave documents out, and tell which and why.

normalize         Unicode's canonical (NFC) or compatibility (NFKC) composition
characters, words how long a document is; words as hflm.data.cleaning.shingles splits them
letters, digits, symbols    share of the characters that are not white space; symbols are punctuation and symbols,
                  letters include combining marks
repetition        see hflm.data.cleaning.repetition
exact_duplicates  equal texts, after normalization; also of a text that validation holds
near_duplicates   see hflm.data.cleaning.near_duplicates; also of a text that validation holds

In this order; a document is counted where it first fails. The first of a group of duplicates stays, and so does the
order of the documents. Held-out text that a recipe names itself is normalized and otherwise left as it is.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import sys
import unicodedata
from dataclasses import dataclass

import numpy as np

from hflm.core.atomic_io import write_text
from hflm.core.errors import DataError
from hflm.core.markdown import cut
from hflm.data.cleaning import near_duplicates as duplicates
from hflm.data.cleaning import repetition, shingles

SAMPLES = 3  # of what each step left out
LONGEST_SAMPLE = 200  # characters


@dataclass(frozen=True)
class Step:
    """What one step left out; `samples` are texts cut short, each with its "why" or the near-duplicate that stays:
    {"text": ..., "like": ...}, or "like in validation".
    """

    step: str
    setting: object
    removed: int
    samples: tuple[dict, ...]


@dataclass(frozen=True)
class Cleaning:
    """The report on a corpus: documents before and after, how many changed by normalization, and each step."""

    rows_in: int
    rows_out: int
    normalized: int
    steps: tuple[Step, ...]


def clean(texts, section, held_out=()):
    """Clean a list of texts: (texts that stay, Cleaning). `section` is a recipe's Clean.

    `held_out` are normalized texts that the corpus must hold no near-duplicate of. Raises DataError when none stays.

    >>> clean(["a b c", "", "a b c"], Clean(words={"min": 1}, exact_duplicates=True))[0]       # doctest: +SKIP
    ['a b c']
    """
    _, kept, report = chosen(texts, section, held_out)
    return kept, report


def chosen(texts, section, held_out=()):
    """As `clean`: (the numbers of the texts that stay, those texts normalized, Cleaning)."""
    numbers, kept, steps, changed = [], [], {}, 0

    def leave_out(step, text, **more):
        removed, samples = steps.get(step, (0, ()))
        if removed < SAMPLES:
            shown = {key: _short(value) for key, value in {"text": text, **more}.items()}
            samples = (*samples, shown)
        steps[step] = removed + 1, samples

    def keep(places):
        return [numbers[place] for place in places], [kept[place] for place in places]

    number = itertools.count()
    for batch in shingles.batches(texts):
        normal = normalized(batch, section)
        changed += sum(text is not before and text != before for text, before in zip(normal, batch, strict=True))
        for text, failure in zip(normal, failures(normal, section), strict=True):
            place = next(number)
            if failure is None:
                numbers.append(place)
                kept.append(text)
            else:
                leave_out(failure[0], text, why=failure[1])
    if section.exact_duplicates:
        held, seen, different = set(map(_digest, held_out)), set(), []
        for place, text in enumerate(kept):
            digest = _digest(text)
            if digest in held or digest in seen:
                leave_out("exact_duplicates", text, why="stands in validation" if digest in held else "stands before")
            else:
                seen.add(digest)
                different.append(place)
        numbers, kept = keep(different)
    if section.near_duplicates is not None:
        everything = [*held_out, *kept]
        near = duplicates.near(everything, section.near_duplicates, keep=len(held_out))
        for found, twin in near.items():
            which = {"like in validation": everything[twin]} if twin < len(held_out) else {"like": everything[twin]}
            leave_out("near_duplicates", everything[found], **which)
        numbers, kept = keep([place for place in range(len(kept)) if place + len(held_out) not in near])
    settings = section.model_dump(mode="json", exclude={"normalize"}, exclude_none=True)
    report = Cleaning(
        rows_in=len(texts),
        rows_out=len(kept),
        normalized=changed,
        steps=tuple(Step(step, set_to, *steps.get(step, (0, ()))) for step, set_to in settings.items() if set_to),
    )
    if not kept:
        raise DataError(f"pretrain.clean leaves none of {len(texts):,} documents: {_counted(report)}")
    return numbers, kept, report


def stream(dataset, section):
    """An IterableDataset of {"text": ...} that is cleaned row by row as it is read.

    Its position can be saved and restored as before. Nothing is counted: a stream has no end to report on.
    """
    if section.normalize is not None:
        dataset = dataset.map(lambda row: {"text": normalized([row["text"]], section)[0]})
    return dataset.filter(lambda row: failures([row["text"]], section)[0] is None)


def normalized(texts, section):
    """The texts in the Unicode form that the recipe asks for."""
    if section.normalize is None:
        return texts
    return [unicodedata.normalize(section.normalize, text) for text in texts]


def failures(texts, section):
    """For each text None, or (step, why) of the first filter that works on one document and leaves it out.

    >>> failures(["too short"], Clean(words={"min": 3}))                                       # doctest: +SKIP
    [('words', '2 words')]
    """
    found = [None] * len(texts)

    def fail(step, bad, why):
        for number in np.flatnonzero(bad).tolist():
            found[number] = found[number] or (step, why(number))

    def outside(limits, values):
        low = False if limits.min is None else values < limits.min
        high = False if limits.max is None else values > limits.max
        return low | high

    if section.characters is not None:
        lengths = np.array([len(text) for text in texts])
        fail("characters", outside(section.characters, lengths), lambda number: f"{lengths[number]:,} characters")
    if section.words is not None or section.repetition:
        words = shingles.words(texts)
        counts = np.diff(words.starts)
    if section.words is not None:
        fail("words", outside(section.words, counts), lambda number: f"{counts[number]:,} words")
    if any((section.letters, section.digits, section.symbols)):
        for kind, shares in _shares(texts).items():
            if (limits := getattr(section, kind)) is not None:
                fail(
                    kind,
                    outside(limits, shares),
                    lambda number, shares=shares, kind=kind: f"{100 * shares[number]:.0f} % {kind}",
                )
    if section.repetition:
        for rule, most, shares in repetition.shares(texts, words):
            why = f"{rule}, at most {100 * most:.0f} %"
            fail(
                "repetition",
                shares > most,
                lambda number, shares=shares, why=why: f"{100 * shares[number]:.0f} % {why}",
            )
    return found


def table(report):
    """The terminal's table of a Cleaning, a rich.table.Table."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(caption=_counted(report))
    for heading, justify in [("cleaning", "left"), ("left out", "right"), ("for example", "left")]:
        shown.add_column(heading, justify=justify)
    for step in report.steps:
        samples = "; ".join(
            " ".join(f"{sample.get('why', '')} {sample['text'][:60]!r}".split()) for sample in step.samples[:1]
        )
        shown.add_row(
            Text(f"{step.step} {setting_in_words(step.setting)}".strip()), Text(f"{step.removed:,}"), Text(samples)
        )
    return shown


def write(report, path):
    """Write a Cleaning as JSON; `read` gives its dict back."""
    write_text(path, json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n")


def _counted(report):
    left = ", ".join(f"{step.step} {step.removed:,}" for step in report.steps if step.removed)
    return f"{report.rows_in:,} documents in, {report.rows_out:,} out" + (f"; left out by {left}" if left else "")


def setting_in_words(setting):
    """{"min": 0.5, "max": None} -> 'min 0.5', 0.4 -> '0.4', True -> ''."""
    if isinstance(setting, dict):
        return ", ".join(f"{key} {value:g}" for key, value in setting.items() if value is not None)
    return "" if setting is True else f"{setting:g}"


def _digest(text):
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _short(text):
    return cut(text if len(text) <= LONGEST_SAMPLE else f"{text[:LONGEST_SAMPLE]} [...]")


@functools.cache
def _kinds():
    """A table from a character's code to its kind: 0 letter, 1 digit, 2 symbol, 3 other, 4 white space."""
    kinds = {"L": 0, "M": 0, "N": 1, "P": 2, "S": 2}
    characters = map(chr, range(sys.maxunicode + 1))
    return np.array(
        [4 if char.isspace() else kinds.get(unicodedata.category(char)[0], 3) for char in characters], np.uint8
    )


def _shares(texts):
    """{"letters": ..., "digits": ..., "symbols": ...}, each (D,): shares of what is not white space, 0 where nothing is."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds, ends = _kinds()[codes], np.cumsum([0, *map(len, texts)])
    numbers = np.repeat(np.arange(len(texts)), np.diff(ends))
    counts = np.bincount(numbers * 5 + kinds, minlength=5 * len(texts)).reshape(-1, 5)
    shares = counts[:, :3] / np.maximum(1, counts[:, :4].sum(axis=1, keepdims=True))
    return dict(zip(("letters", "digits", "symbols"), shares.T, strict=True))
