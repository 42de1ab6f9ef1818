"""`generation` of a task: how a benchmark chooses the text of an answer, by options of transformers' GenerationConfig.

Those options are allowed that change which text is the answer; a row has one answer, whatever its batch.
"""

from collections.abc import Iterator
from typing import Any

from hflm.recipe import library_options as names
from hflm.recipe.generation_options import BEAMS, SAMPLING
from hflm.recipe.library_options import NAMES, show

# The allowed options; of numbers the range, in words, and a test.
RANGES: dict[str, tuple[str, Any]] = {
    "num_beams": ("above 0", lambda value: value >= 1),
    "length_penalty": ("a number", lambda value: True),
    "early_stopping": ("true, false or never", lambda value: isinstance(value, bool) or value == "never"),
    "do_sample": ("true or false", lambda value: True),
    "temperature": ("above 0", lambda value: value > 0),
    "top_k": ("at least 0", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "min_p": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "top_h": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "typical_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "epsilon_cutoff": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "eta_cutoff": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "repetition_penalty": ("above 0", lambda value: value > 0),
    "no_repeat_ngram_size": ("0, or at least 2", lambda value: value == 0 or value >= 2),
    "min_new_tokens": ("at least 0", lambda value: value >= 0),
    "renormalize_logits": ("true or false", lambda value: True),
}
ALLOWED = {name: NAMES["GenerationConfig"][name] for name in RANGES}
REFUSED = dict.fromkeys(
    NAMES["GenerationConfig"], "a benchmark scores one text a row, and has no use for it. Remove it"
)
REFUSED |= {
    "max_new_tokens": "a task has its own key for it. Write `max_new_tokens:` beside `generation:`",
    "stop_strings": "a task has its own key for it. Write `stop:` beside `generation:`",
    "max_length": "it counts the prompt too. Write `max_new_tokens:` beside `generation:`",
    "min_length": "it counts the prompt too. Use min_new_tokens",
    "max_time": "the answers would depend on the machine's speed. Remove it",
    "num_return_sequences": "a benchmark scores one text a row. Remove it",
}
REFUSED = {name: text for name, text in REFUSED.items() if name not in RANGES}


def generation_problems(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (option, message) for each option of a task's `generation` that is unknown, refused, wrong or ignored.

    >>> list(generation_problems({"num_beam": 5}))
    [('num_beam', 'unknown key. Did you mean num_beams?')]
    """
    wrong = set()
    for name, value in options.items():
        if text := _problem(name, value):
            wrong.add(name)
            yield name, text
    beams = options.get("num_beams", 1)
    several = isinstance(beams, int) and beams > 1
    if several and options.get("do_sample"):
        wrong.add("do_sample")
        yield "do_sample", "beams are searched, not sampled: with num_beams above 1 set it to false"
    for name in options:
        if name in SAMPLING and not options.get("do_sample") and name not in wrong:
            yield name, "without effect, the most likely token is taken. Add do_sample: true, or remove it"
        elif name in BEAMS and not several and not wrong & {name, "num_beams"}:
            yield name, "without effect, there is one beam. Set num_beams above 1, or remove it"


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with one option alone, or None."""
    if name in REFUSED:
        return REFUSED[name]
    for _, text in names.problems({name: value}, "GenerationConfig", ALLOWED):
        return text
    expected, fits = RANGES[name]
    return None if fits(value) else f"must be {expected}, got {show(value)}"


def describe_generation(options: dict[str, Any], transformers: bool = True) -> str:
    """The options in words, those included that `transformers` sets where they are left out.

    >>> describe_generation({"num_beams": 5, "length_penalty": 0.6})
    'beam search (early_stopping false, length_penalty 0.6, num_beams 5)'
    """
    if options.get("num_beams", 1) > 1:
        method, options = "beam search", {**BEAMS, **options}
    elif options.get("do_sample"):
        defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0} if transformers else {}
        method, options = "sampled with a seed a row", {**defaults, **options}
    else:
        method = "greedy"
    listed = {name: value for name, value in sorted(options.items()) if name != "do_sample"}
    words = ", ".join(f"{name} {show(value) if isinstance(value, bool) else value}" for name, value in listed.items())
    return f"{method} ({words})" if words else method
