"""The options of `hflm generate`: transformers' GenerationConfig on a command line, each with a help text or its type."""

from collections.abc import Collection, Sequence
from typing import Any

from hflm.core import RecipeError, UserError
from hflm.recipe.library_options import NAMES, mismatch, suggest
from hflm.recipe.yaml_reader import parse_yaml

TYPES = NAMES["GenerationConfig"]
# The options that only sampling and only beam search read, with the values that change nothing.
SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "min_p": 0.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
BEAMS: dict[str, Any] = {"length_penalty": 1.0, "early_stopping": False}
# The options that most people need, in groups, and what each does.
GROUPS = {
    "Length": {
        "max_new_tokens": "At most so many tokens after the prompt.",
        "min_new_tokens": "At least so many.",
        "max_length": "At most so many with the prompt; by default 200.",
        "stop_strings": "End at this text, or at one of a list.",
        "max_time": "End after so many seconds.",
    },
    "Sampling": {
        "do_sample": "Draw each token at random; else the most likely is taken.",
        "temperature": "Above 1 more varied, below 1 less.",
        "top_k": "Draw from the k most likely tokens.",
        "top_p": "Draw from the most likely tokens that have this probability together.",
        "min_p": "Draw from tokens with this fraction of the most likely one's probability.",
        "num_return_sequences": "Write so many texts.",
    },
    "Beam search": {
        "num_beams": "Follow so many texts at once and take the most likely.",
        "length_penalty": "Above 0 prefers longer texts, below 0 shorter ones.",
        "early_stopping": "When to end: true, false or never.",
    },
    "Repetition and words": {
        "repetition_penalty": "Above 1 makes tokens that occurred less likely.",
        "no_repeat_ngram_size": "No n-gram of this size occurs twice.",
        "bad_words_ids": "Token ids that are never written, such as '[[5], [6, 7]]'.",
        "suppress_tokens": "Token ids that are never written, such as '[5, 6]'.",
        "eos_token_id": "The token that ends a text.",
    },
    "Speed": {"use_cache": "Keep the keys and values of earlier tokens."},
}


class OptionError(UserError):
    """A generation option that is unknown, or has a value of a wrong type."""


def option_name(name: str) -> str:
    """'top_p' -> '--top-p'."""
    return f"--{name.replace('_', '-')}"


def parse_generation_options(
    arguments: Sequence[str], own_options: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The generation options among the words of a command line, and the other words.

    own_options: the command's own, which are left alone. Lists, dicts and unions of types are read as YAML. Raises
    OptionError.

    >>> parse_generation_options(["org/m", "--top-p", "0.9", "--do-sample", "A prompt"], ["--seed"])
    ({'top_p': 0.9, 'do_sample': True}, ['org/m', 'A prompt'])
    """
    options: dict[str, Any] = {}
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        switch, equals, text = word.partition("=")
        name = switch.removeprefix("--").replace("-", "_")
        negative = name.removeprefix("no_")
        if not switch.startswith("--") or switch in own_options:
            rest.append(word)
        elif name in TYPES:
            kind = TYPES[name]
            if not equals and kind == "bool":
                options[name] = True
                continue
            if not equals and kind == "bool|str" and (not words or words[0].startswith("--")):
                options[name] = True  # `--early-stopping` alone is a switch
                continue
            if not equals and not words:
                raise OptionError(f"Option '{switch}' requires an argument.")
            options[name] = _value(name, text if equals else words.pop(0))
        elif negative in TYPES and TYPES[negative] == "bool" and not equals:
            options[negative] = False
        else:
            known = [*own_options, *map(option_name, TYPES)]
            raise OptionError(f"No such option: {switch}.{suggest(switch, known)}")
    return options, rest


def generation_help() -> dict[str, list[tuple[str, str]]]:
    """{group: [(option with its type, help)]}: those of GROUPS, then all others."""
    groups = {title: [(_usage(name), text) for name, text in names.items()] for title, names in GROUPS.items()}
    common = {name for names in GROUPS.values() for name in names}
    others = [(_usage(name), "") for name in TYPES if name not in common]
    return {**groups, "All others, as transformers' GenerationConfig describes them": others}


def _usage(name: str) -> str:
    option, kind = option_name(name), TYPES[name]
    return f"{option} / --no-{option[2:]}" if kind == "bool" else f"{option} {kind.upper()}"


def _value(name: str, text: str) -> Any:
    """The text of an option, read as YAML where its type is more than text: `--suppress-tokens '[1, 2]'`."""
    kind = TYPES[name]
    value: Any = None
    if kind == "str":
        return text
    try:
        value = parse_yaml(text, option_name(name), []).plain()
        wrong = mismatch(kind, value)
    except RecipeError as error:
        wrong: str | None = error.problems[0].text
    if wrong and "str" in kind.split("|"):
        return text
    if wrong:
        raise OptionError(f"Invalid value for '{option_name(name)}': {wrong}")
    return float(value) if kind == "float" and value is not None else value
