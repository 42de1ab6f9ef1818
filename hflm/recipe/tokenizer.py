"""The section `tokenizer` of a recipe: train one, or load one."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from hflm.recipe.library_options import show
from hflm.recipe.section import KeyProblem, Positive, Section, Words, count, either
from hflm.recipe.tasks import Mixture

# All three algorithms begin with the 256 bytes and <|endoftext|>; wordpiece has each byte inside a word, too. unigram
# needs one entry that it can do without.
LEAST_VOCAB_SIZE = {"bpe": 257, "unigram": 258, "wordpiece": 513}


class TokenizerTraining(Section):
    algorithm: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """How words are split. `unigram` comes out slightly different each time, the others do not."""
    vocab_size: Positive
    """Entries, the special tokens included."""
    min_frequency: Positive = 2
    """Two tokens that occur together less often are not merged into one."""
    data: Mixture | None = None
    """Text to train on, in place of that of `pretrain` and of the fine-tuned tasks."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        size, algorithm = raw.get("vocab_size"), raw.get("algorithm", "bpe")
        least = LEAST_VOCAB_SIZE.get(algorithm) if isinstance(algorithm, str) else None
        if isinstance(size, int) and least and 0 < size < least:
            yield ("vocab_size",), f"must be at least {least} for {algorithm}, got {size}"


class TokenizerRecipe(Section):
    train: TokenizerTraining | None = None
    """Train a new one."""
    from_: str | None = Field(None, alias="from")
    """Load one: a Hub id, a folder or a run."""
    revision: str | None = None
    """The Hub's commit, branch or tag of `from`."""
    add_tokens: Annotated[Words, count(1)] | None = Field(None, exclude_if=lambda value: value is None)
    """Texts that become one token each wherever they occur; without `train` and `from`, of the model's own tokenizer."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        if raw.get("add_tokens") is None or raw.get("train") is not None or raw.get("from") is not None:
            yield from either(raw, "train", "from")
        elif raw.get("revision") is not None:
            yield ("revision",), "belongs to a `from:`. Remove it"
        yield from _added_problems(raw.get("add_tokens"))


def _added_problems(tokens: Any) -> Iterator[KeyProblem]:
    seen: set[str] = set()
    for number, token in enumerate(tokens if isinstance(tokens, list) else ()):
        if not isinstance(token, str):
            continue
        if not token.strip():
            yield (
                ("add_tokens", number),
                f"a token of white space alone would split every text: {show(token)}. Remove it",
            )
        elif token in seen:
            yield ("add_tokens", number), f"{show(token)} is named twice. Remove one"
        seen.add(token)
