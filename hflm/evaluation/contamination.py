"""How much of a benchmark occurs in the training text, by GPT-3's rule (Brown et al. 2020, arXiv 2005.14165, appendix C).

An example is contaminated when any N words in a row of it (lower-cased, without punctuation:
hflm.data.cleaning) occur in the training text. N is the 5th percentile of the task's examples' lengths in
words, at least 8, since shorter runs meet by chance, and at most 13. A contaminated example is a near-copy when 40 % of
its words or more lie in such runs: of a copy with every tenth word changed, 56 % of the words lie in unbroken runs of
13 on average. An example of fewer than N words has no such run. It is counted apart, as a short copy, when it is as a
whole a document, a line or a fine-tuning example of the training text: the same sentence, or a line such as a speaker's
name, which says little.

Only the data's own text is compared: what a prompt shows of a row, and the answers, never the words of the prompt
around it, which training and test have in common. As in the paper, the whole corpus is compared, also where training
ends before it has read all of it. The benchmark is indexed and the training text is read once: memory grows with the
benchmark alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hflm import tasks
from hflm.data import cleaning

if TYPE_CHECKING:
    from hflm.evaluation.questions import BenchmarkRows
    from hflm.recipe import Task
    from hflm.recipe.schema import Recipe
    from hflm.tasks import Example

SHORTEST, LONGEST, PERCENTILE = 8, 13, 5  # of N
NEAR_COPY = 0.4  # fraction of the words


@dataclass(frozen=True)
class Overlap:
    """What the E parts of a task have in common with the training text; `against` are the stages that read it.

    `contaminated` (E,) bool; `fractions` (E,): the fraction of the words in runs of `n` that occur in the training text;
    `short_copies` (E,) bool: shorter than `n` words, and as a whole a line or document of the training text. The parts
    are the task's examples, or with `lines` the lines of its one running text.
    """

    n: int
    contaminated: np.ndarray
    fractions: np.ndarray
    short_copies: np.ndarray
    against: tuple[str, ...]
    lines: bool = False

    @property
    def near_copies(self) -> int:
        return int((self.fractions >= NEAR_COPY).sum())


def check_contamination(
    recipe: "Recipe",
    names: Sequence[str],
    rows: "Mapping[tuple[str, str], BenchmarkRows]",
    corpus: Any,
) -> dict[str, Overlap]:
    """The Overlap of each task in `names` with all training text that can be read again, {} where there is none.

    `rows` are the rows of each (task, "train" | "test"), `corpus` the pipeline's Corpus or None. A stream is not read
    again.
    """
    against, texts = _training_texts(recipe, rows, corpus)
    if not against:
        return {}
    indexes = {name: Index(*_parts(rows[name, "test"].task, rows[name, "test"].examples)) for name in names}
    scan_texts(indexes.values(), texts)
    return {name: index.overlap(against, _is_running_text(rows[name, "test"].task)) for name, index in indexes.items()}


class Index:
    """The n-grams of a task's parts, and which of them were seen in the training text so far."""

    def __init__(self, inputs: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """`inputs` are the E texts of the parts; the texts of `references` (E lists) are searched, too."""
        self.words = cleaning.hash_words(inputs)
        lengths = np.diff(self.words.starts)
        self.n = int(np.clip(np.percentile(lengths, PERCENTILE), SHORTEST, LONGEST)) if len(lengths) else LONGEST
        hashes, self.places = self.words.ngrams(self.n)
        answers = [text for some in references for text in some]
        owners = np.repeat(np.arange(len(references)), [len(some) for some in references])
        answer_words = cleaning.hash_words(answers)
        answer_hashes, answer_places = answer_words.ngrams(self.n)
        text_of = np.repeat(np.arange(len(answers)), np.diff(answer_words.starts))
        self.owners = owners[text_of[answer_places]]
        self.hashes, inverse = np.unique(np.concatenate([hashes, answer_hashes]), return_inverse=True)
        self.inputs, self.answers = inverse[: len(hashes)], inverse[len(hashes) :]
        self.seen = np.zeros(len(self.hashes), bool)
        self.short = {
            part: " ".join(cleaning.split_words(inputs[part]))
            for part in np.flatnonzero((lengths < self.n) & (lengths > 0)).tolist()
        }
        self.short_texts = set(self.short.values())
        self.short_seen: set[str] = set()

    def overlap(self, against: tuple[str, ...], lines: bool = False) -> Overlap:
        """The Overlap of all that was seen so far."""
        starts = self.words.starts
        hit = self.seen[self.inputs]
        depth = np.zeros(len(self.words.hashes) + 1, np.int64)
        np.add.at(depth, self.places[hit], 1)
        np.add.at(depth, self.places[hit] + self.n, -1)
        covered = np.concatenate([[0], np.cumsum(np.cumsum(depth[:-1]) > 0)])
        fractions = (covered[starts[1:]] - covered[starts[:-1]]) / np.maximum(1, np.diff(starts))
        short_copies = np.zeros(len(fractions), bool)
        short_copies[[part for part, text in self.short.items() if text in self.short_seen]] = True
        contaminated = fractions > 0
        contaminated[self.owners[self.seen[self.answers]]] = True
        return Overlap(self.n, contaminated, fractions, short_copies & ~contaminated, against, lines)


def scan_texts(indexes: Iterable[Index], texts: Iterable[str], characters: int = cleaning.BATCH) -> None:
    """Mark in each Index what occurs in the training texts, read once, so many characters at a time."""
    indexes = list(indexes)
    short = set().union(*(index.short_texts for index in indexes))
    longest = 4 * max(map(len, short), default=0)  # characters: punctuation is not in `short`
    for batch in cleaning.batch_texts(texts, characters):
        words = cleaning.hash_words(batch)
        for n in {index.n for index in indexes}:
            hashes, _ = words.ngrams(n)
            for index in indexes:
                if index.n == n and len(index.hashes):
                    places = np.searchsorted(index.hashes, hashes)
                    places[places == len(index.hashes)] = 0
                    index.seen[places[index.hashes[places] == hashes]] = True
        if short:
            lines = (line for text in batch for line in {text, *text.split("\n")} if len(line) <= longest)
            common = short.intersection(" ".join(cleaning.split_words(line)) for line in lines)
            for index in indexes:
                index.short_seen |= common & index.short_texts


def _training_texts(
    recipe: "Recipe", rows: "Mapping[tuple[str, str], BenchmarkRows]", corpus: Any
) -> tuple[tuple[str, ...], Iterator[str]]:
    """(the stages whose text can be read again, that text)."""
    against: list[str] = []
    texts: list[Sequence[str]] = []
    if recipe.pretrain is not None and corpus is not None and isinstance(corpus.texts, list):
        against.append("pretrain")
        texts.append(corpus.texts)
    if recipe.finetune is not None:
        against.append("finetune")
        for name in recipe.finetune.tasks:
            inputs, answers = _parts(recipe.tasks[name], rows[name, "train"].examples)
            texts += [inputs, [text for some in answers for text in some]]
    return tuple(against), (text for some in texts for text in some)


def _is_running_text(task: "Task") -> bool:
    return isinstance(task, tasks.LanguageModeling) and task.rows == "lines"


def _parts(task: "Task", examples: "Sequence[Example]") -> tuple[list[str], list[tuple[str, ...]]]:
    """(texts of the task's parts, the answers to each): the content of the rows, without the prompt's own words."""
    if task.kind == "language_modeling":
        texts = [example.target for example in examples]
        if _is_running_text(task):
            texts = [line for text in texts for line in text.split("\n") if line.strip()]
        return texts, [()] * len(texts)
    fields = [tasks.row_texts(task, example) for example in examples]
    # A few words that occur in every row, such as the name of a language, belong to the task and not to an example.
    constant = {
        name
        for name, text in fields[0].items()
        if len(cleaning.split_words(text)) < SHORTEST
        and len(fields) > 1
        and all(each.get(name) == text for each in fields)
    }
    inputs = ["\n".join(text for name, text in each.items() if name not in constant) for each in fields]
    return inputs, [() if tasks.choices(task) else example.references for example in examples]
