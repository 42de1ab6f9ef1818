"""How well a tokenizer fits its text: bytes per token, tokens per word, byte fallback, entries that are never used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hflm.core import escape_controls, split_words
from hflm.preprocessing.tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LONGEST = 10  # how many of the longest tokens are named
REPORT_HEADINGS = ("source", "texts", "bytes", "bytes per token", "tokens per word", "unknown", "part of a character")
REPLACEMENT = "�"  # what a byte decodes to that is no character by itself


@dataclass(frozen=True)
class SourceReport:
    """One source of text: `bytes` of UTF-8, `words` by Unicode's word characters, and the tokens that they become.

    `unknown`: tokens that stand for text outside the vocabulary. `fallback`: tokens that are a part of a character.
    """

    name: str
    texts: int
    bytes: int
    words: int
    tokens: int
    unknown: int
    fallback: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)


@dataclass(frozen=True)
class TokenizerReport:
    """A tokenizer on some text: `entries` of the vocabulary, `unused` of them there, and its longest tokens."""

    entries: int
    unused: int
    longest: tuple[str, ...]
    sources: tuple[SourceReport, ...]


def report_tokenizer(tokenizer: "PreTrainedTokenizerFast", texts: Mapping[str, Sequence[str]]) -> TokenizerReport:
    """The TokenizerReport on `texts`, {source: texts}.

    >>> report_tokenizer(tokenizer, {"corpus": ["The dog saw the key."]}).sources[0].tokens      # doctest: +SKIP
    7
    """
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    pieces = tokenizer.batch_decode([[number] for number in range(len(tokenizer))], skip_special_tokens=False)
    partial = np.array([REPLACEMENT in piece for piece in pieces])
    sources = []
    for name, own in texts.items():
        ids = np.fromiter((each for row in encode(tokenizer, list(own)) for each in row), dtype=np.int64)
        found = np.bincount(ids, minlength=len(tokenizer))
        counts += found
        # Some tokenizers have the end of text as their unknown token; texts hold none of their own.
        unknown = tokenizer.convert_tokens_to_ids(tokenizer.unk_token) if isinstance(tokenizer.unk_token, str) else None
        assert unknown is None or isinstance(unknown, int)
        sources.append(
            SourceReport(
                name=name,
                texts=len(own),
                bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in own),
                words=sum(len(split_words(text)) for text in own),
                tokens=len(ids),
                unknown=0 if unknown is None else int(found[unknown]),
                fallback=int(found[partial].sum()),
            )
        )
    used = [pieces[number] for number in np.flatnonzero(counts)]
    longest = sorted(used, key=lambda piece: (-len(piece), piece))[:LONGEST]
    return TokenizerReport(len(tokenizer), int((counts == 0).sum()), tuple(longest), tuple(sources))


def load_report(content: Mapping[str, Any]) -> TokenizerReport:
    """The report that `dataclasses.asdict` made `content` of."""
    sources = tuple(SourceReport(**source) for source in content["sources"])
    return TokenizerReport(**{**content, "longest": tuple(content["longest"]), "sources": sources})


def report_rows(report: TokenizerReport) -> list[tuple[str, ...]]:
    """The rows of a report's table, below REPORT_HEADINGS."""
    return [
        (
            source.name,
            f"{source.texts:,}",
            f"{source.bytes:,}",
            f"{source.bytes_per_token:.2f}",
            f"{source.tokens_per_word:.2f}",
            _percent(source.unknown, source.tokens),
            _percent(source.fallback, source.tokens),
        )
        for source in report.sources
    ]


def describe_report(report: TokenizerReport) -> str:
    """The line below a report's table."""
    longest = ", ".join(visible(piece) for piece in report.longest)
    return f"{report.entries:,} entries, {report.unused:,} of them unused here; the longest used: {longest}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.2f} %"


def visible(text: str) -> str:
    """A token as it is shown: white space and control characters as visible signs.

    >>> visible(" the"), visible("\\n")
    ('·the', '⏎')
    """
    return escape_controls(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·"))
