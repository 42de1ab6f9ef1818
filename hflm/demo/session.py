"""What the demo of a model shows: the model, what is known about it, and what each tab answers.

tabs.py knows the tasks, app.py draws the page.
"""

import contextlib
import html
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hflm import tasks
from hflm.core import RecipeError, UserError, display_name, expand_path
from hflm.demo.tabs import Examples, TaskTab, check_text, find_examples, make_tabs, read_predictions
from hflm.evaluation import plots
from hflm.inference import LocalModel, attention_weights, load_for_inference, score_text, score_view, stream_text
from hflm.models import context_length
from hflm.preprocessing import encode
from hflm.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LONGEST_LINE = 400  # characters of the card, at the top of the page
# (least, most, default, step) of what the Generate tab sets, under GenerationConfig's names
SETTINGS = {
    "max_new_tokens": (1, 512, 100, 1),
    "temperature": (0, 2, 0.8, 0.05),
    "top_p": (0.05, 1, 0.95, 0.05),
    "repetition_penalty": (1, 2, 1, 0.05),
}


@dataclass(frozen=True)
class Session:
    """A loaded model and what the page shows: `title`, `line` of its card ("" without), `facts`, its tabs and examples."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    title: str
    line: str
    facts: str
    tabs: list[TaskTab]
    examples: Examples

    def continuation(self, prompt: str, seed: int | None, settings: dict[str, float]) -> Iterator[str]:
        """Yield the prompt with more and more text after it, greedy at temperature 0; `settings` are of SETTINGS."""
        check_text(prompt, "Prompt", empty=True)
        sampling = dict(settings)
        count = int(sampling.pop("max_new_tokens"))
        for text in stream_text(
            self.model, self.tokenizer, prompt, count, sampling=sampling if sampling["temperature"] else None, seed=seed
        ):
            yield prompt + text

    def written(self, tab: TaskTab, texts: Sequence[str]) -> Iterator[str]:
        """Yield the answer of a task that writes, longer each time."""
        max_new_tokens, stop, _ = tasks.task_settings(tab.task)
        assert max_new_tokens is not None  # a task that writes
        for text in stream_text(self.model, self.tokenizer, tab.prompt(texts), max_new_tokens, stop):
            yield text.strip()

    def chosen(self, tab: TaskTab, texts: Sequence[str]) -> dict[str, float]:
        """{label: p} of a task that chooses; the p sum to 1."""
        import torch

        prompt, words = tab.prompt(texts), tasks.choices(tab.task) or ()
        [count] = map(len, encode(self.tokenizer, [prompt]))
        room = context_length(self.model) - max(map(len, encode(self.tokenizer, [f" {word}" for word in words])))
        if count > room:
            raise UserError(
                f"the prompt has {count:,} tokens, the model has room for {max(room, 0):,}. Shorten the text"
            )
        with torch.inference_mode():
            [(_, [logs])] = LocalModel(self.model, self.tokenizer).likelihoods(
                [prompt], words, include_end=tab.task.label_end
            )
        return dict(zip(words, torch.tensor(logs, dtype=torch.float64).softmax(0).tolist(), strict=True))

    def inside(self, text: str, attention: bool) -> Iterator[str]:
        """Yield HTML: the text's tokens with their probabilities, then the same with a picture of the attention."""
        check_text(text, "Text")
        found = score_text(self.model, self.tokenizer, text)
        yield score_view.body(found)
        if attention:
            try:
                picture = plots.attention(*attention_weights(self.model, self.tokenizer, text))
            except UserError as error:
                yield f'{score_view.body(found)}<p class="small">{html.escape(str(error))}.</p>'
            else:
                yield score_view.body(found, picture)


def open_session(
    path: str, revision: str | None = None, examples: Examples | None = None, dtype: str | None = None
) -> Session:
    """A model and what its run, folder or Hub repository says about it: recipe.yaml, README.md, benchmark/predictions.

    `examples` replace what `find_examples` finds in the predictions; `dtype` as load_for_inference takes it. Raises
    ModelError.
    """
    model, tokenizer = load_for_inference(path, revision, dtype)
    recipe, card = _recipe(path, revision), _file(path, "README.md", revision)
    rows = read_predictions(recipe, path)
    if examples is None:
        examples = find_examples(recipe, rows)
    return Session(
        model,
        tokenizer,
        title=recipe.name if recipe else display_name(str(path)),
        line=first_line(card.read_text(encoding="utf-8", errors="replace")) if card else "",
        facts=f"{model.num_parameters():,} parameters \u00b7 a context of {context_length(model):,} tokens \u00b7 "
        f"a vocabulary of {model.config.vocab_size:,}",
        tabs=make_tabs(recipe, rows, examples),
        examples=examples,
    )


def first_line(card: str) -> str:
    r"""What a model card says first, without its metadata and markup.

    >>> first_line("---\ntags: []\n---\n\n# quickstart\n\nA model of \\[toy\\] words.\n")
    'A model of [toy] words.'
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    lines = (line.strip() for line in text.split("\n"))
    line = next((line for line in lines if re.match(r"[^\W_]", line)), "")
    line = re.sub(r"\\([\\`*\[\]|~<>&])", r"\1", line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}\u2026"


def _recipe(path: str, revision: str | None) -> Recipe | None:
    """The recipe that made the model, or None."""
    file = _file(path, "recipe.yaml", revision)
    if file is None:
        return None
    try:
        return load_recipe(str(file))
    except RecipeError as error:
        warnings.warn(f"the model's recipe is ignored: {error.problems[0]}", stacklevel=2)
        return None


def _file(path: str, name: str, revision: str | None) -> Path | None:
    """The Path of a file that a run, a model folder or a Hub repository holds beside its model, or None."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    place = expand_path(path)
    if place.exists():
        return place / name if (place / name).is_file() else None
    with contextlib.suppress(EntryNotFoundError):  # offline, a file that is not in the cache is not found either
        return Path(hf_hub_download(str(path), name, revision=revision))
    return None
