"""How much of a benchmark stood in the training text, by GPT-3's rule (Brown et al. 2020, arXiv 2005.14165, appendix C).

An example is contaminated when any N words in a row of it (lower-cased, without punctuation:
hflm.data.cleaning.shingles) stand in the training text. N is the 5th percentile of the task's examples' lengths in
words, at least 8, below which chance meets, and at most 13. An example of fewer than N words has no such run, and parts
of short sentences meet by chance everywhere: it is contaminated when it is, as a whole, a document, a line or a
fine-tuning example of the training text. It is a near-copy when 40 % of its words or more lie in such runs: of a copy
with every tenth word changed, 56 % of the words lie in unbroken runs of 13 on average.

Only the data's own text is compared, what a prompt shows of a row and the answers, never the words of the prompt
around it, which training and test share. As there, the whole corpus is compared, also where training ends before it
has read all of it. The benchmark is indexed and the training text is read past it once:
memory grows with the benchmark alone.
"""

from dataclasses import dataclass

import numpy as np

from hflm import tasks
from hflm.data import cleaning

SHORTEST, LONGEST, PERCENTILE = 8, 13, 5
NEAR_COPY = 0.4  # share of the words


@dataclass(frozen=True)
class Overlap:
    """What the E parts of a task have in common with the training text; `against` are the stages that read it.

    `contaminated` (E,) bool, `shares` (E,): the share of the words in runs of `n` that training text holds. The parts
    are the task's examples, or with `lines` the lines of its one running text.
    """

    n: int
    contaminated: np.ndarray
    shares: np.ndarray
    against: tuple[str, ...]
    lines: bool = False

    @property
    def near_copies(self):
        return int((self.shares >= NEAR_COPY).sum())


def check(recipe, names, material, corpus, state) -> dict[str, Overlap]:
    """The Overlap of each task in `names` with all training text that can be read again, {} where there is none.

    `material` and `corpus` are those of hflm.pipeline.reading. A stream is not read again. Each process reads its part
    of the text, and all of them get the whole result.
    """
    from accelerate.utils import gather_object

    against, texts = _training(recipe, material, corpus)
    if not against:
        return {}
    found = {}
    for name in names:
        task, examples = material[name, "test"].task, material[name, "test"].examples
        found[name] = Index(*_parts(task, examples))
    scan(
        found.values(),
        (text for number, text in enumerate(texts) if number % state.num_processes == state.process_index),
    )
    for index in found.values():
        for there, short in gather_object([(index.there, index.short_there)]):
            index.there |= there
            index.short_there |= short
    running = {name for name in names if _running(material[name, "test"].task)}
    return {name: index.overlap(against, name in running) for name, index in found.items()}


class Index:
    """The n-grams of a task's parts, and which of them were seen in the training text so far."""

    def __init__(self, inputs, references):
        """`inputs` are the E texts of the parts; `references` (E lists of texts) may hold runs, too."""
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
        self.there = np.zeros(len(self.hashes), bool)
        self.short = {
            part: " ".join(cleaning.split_words(inputs[part]))
            for part in np.flatnonzero((lengths < self.n) & (lengths > 0))
        }
        self.short_texts = set(self.short.values())
        self.short_there = set()

    def overlap(self, against, lines=False):
        """The Overlap of what was seen."""
        starts = self.words.starts
        hit = self.there[self.inputs]
        depth = np.zeros(len(self.words.hashes) + 1, np.int64)
        np.add.at(depth, self.places[hit], 1)
        np.add.at(depth, self.places[hit] + self.n, -1)
        covered = np.concatenate([[0], np.cumsum(np.cumsum(depth[:-1]) > 0)])
        shares = (covered[starts[1:]] - covered[starts[:-1]]) / np.maximum(1, np.diff(starts))
        for part, text in self.short.items():
            shares[part] = text in self.short_there
        contaminated = shares > 0
        contaminated[self.owners[self.there[self.answers]]] = True
        return Overlap(self.n, contaminated, shares, against, lines)


def scan(indexes, texts):
    """Read the training text past every Index once."""
    indexes = list(indexes)
    short = set().union(*(index.short_texts for index in indexes))
    longest = 4 * max(map(len, short), default=0)  # characters: punctuation is not in `short`
    for batch in cleaning.batch_texts(texts):
        words = cleaning.hash_words(batch)
        for n in {index.n for index in indexes}:
            hashes, _ = words.ngrams(n)
            for index in indexes:
                if index.n == n and len(index.hashes):
                    places = np.searchsorted(index.hashes, hashes)
                    places[places == len(index.hashes)] = 0
                    index.there[places[index.hashes[places] == hashes]] = True
        if short:
            lines = (line for text in batch for line in {text, *text.split("\n")} if len(line) <= longest)
            met = short.intersection(" ".join(cleaning.split_words(line)) for line in lines)
            for index in indexes:
                index.short_there |= met & index.short_texts


def _training(recipe, material, corpus):
    """(the stages whose text can be read again, that text)."""
    against, texts = [], []
    if recipe.pretrain is not None and corpus is not None and isinstance(corpus.texts, list):
        against.append("pretrain")
        texts.append(corpus.texts)
    if recipe.finetune is not None:
        against.append("finetune")
        for name in recipe.finetune.tasks:
            task, examples = recipe.tasks[name], material[name, "train"].examples
            inputs, answers = _parts(task, examples)
            texts += [inputs, [text for some in answers for text in some]]
    return tuple(against), (text for some in texts for text in some)


def _running(task):
    return task.kind == "language_modeling" and task.rows == "lines"


def _parts(task, examples):
    """(texts of the task's parts, the answers to each): what the rows hold, without the prompt's own words."""
    if task.kind == "language_modeling":
        texts = [example.target for example in examples]
        texts = [line for text in texts for line in text.split("\n") if line.strip()] if _running(task) else texts
        return texts, [()] * len(texts)
    fields = [tasks.contents(task, example) for example in examples]
    # A few words that stand in every row, such as the name of a language, belong to the task and not to an example.
    constant = {
        name
        for name, text in fields[0].items()
        if len(cleaning.split_words(text)) < SHORTEST
        and len(fields) > 1
        and all(each.get(name) == text for each in fields)
    }
    inputs = ["\n".join(text for name, text in each.items() if name not in constant) for each in fields]
    return inputs, [() if tasks.choices(task) else example.references for example in examples]
