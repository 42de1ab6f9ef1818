"""The space of a sweep: by key path of the recipe, a list of values or a range of numbers."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hflm.recipe import library_options as names
from hflm.recipe.library_options import show, suggest
from hflm.recipe.section import KeyProblem

RANGE_KEYS = {"low": "float", "high": "float", "log": "bool", "step": "float"}
MAX_GRID = 10_000  # points


@dataclass(frozen=True)
class Choices:
    """A list of values. What Optuna cannot store (null, lists, keys and values) is stored as JSON text."""

    values: tuple[Any, ...]

    @property
    def labels(self) -> dict[str | int | float | bool, Any]:
        """The values by what Optuna stores of each."""
        return {label_of(value): value for value in self.values}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where the recipe writes whole numbers."""

    low: int | float
    high: int | float
    log: bool
    step: int | float | None

    @property
    def is_whole(self) -> bool:
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 1))

    @property
    def grid(self) -> tuple[int | float, ...] | None:
        """All values of a range with steps, or of whole numbers; None where there is no end of them."""
        step = self.step or (1 if self.is_whole and not self.log else None)
        if step is None:
            return None
        count = int((self.high - self.low) / step + 1e-9) + 1
        # In decimals: 3 x 0.1 is 0.3, and not a number above it.
        low, step = Decimal(str(self.low)), Decimal(str(step))
        number = int if self.is_whole else float
        return tuple(number(low + index * step) for index in range(min(count, MAX_GRID + 1)))


def label_of(value: Any) -> str | int | float | bool:
    """What Optuna stores of a choice: `label_of([1, 2])` -> '[1, 2]', `label_of("a")` -> 'a'."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)


def flat_space(space: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yields (path in the YAML, key path of the recipe, dimension): `{a: {b: [1, 2]}}` is `{a.b: [1, 2]}`.

    >>> list(flat_space({"a": {"b": [1, 2]}}))
    [(('a', 'b'), 'a.b', [1, 2])]
    """
    for key, value in space.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value and not value.keys() & RANGE_KEYS.keys():
            yield from flat_space(value, here)
        else:
            yield here, ".".join(here), value


def dimension_of(value: Any) -> Choices | Range:
    if isinstance(value, dict):
        return Range(value["low"], value["high"], value.get("log") or False, value.get("step"))
    return Choices(tuple(value))


def dimension_problems(value: Any) -> Iterator[KeyProblem]:
    """Yields what is wrong in the values of one key, by path below it."""
    if isinstance(value, list | tuple):
        if len(value) < 2:
            yield (), f"a list of at least two values, got {len(value)}. Set one value in the recipe itself"
        seen: list[Any] = []
        for number, each in enumerate(value):
            if label_of(each) in seen:
                yield (number,), f"{show(each)} is listed twice. Remove one"
            seen.append(label_of(each))
        return
    if not isinstance(value, dict):
        yield (), f"expected a list of values or a range such as {{low: 1, high: 8}}, got {show(value)}"
        return
    wrong = False
    for key, each in value.items():
        text = None if key in RANGE_KEYS else f"unknown key.{suggest(key, RANGE_KEYS)}"
        if text := text or names.mismatch(RANGE_KEYS[key], each):
            wrong = True
            yield (key,), text
    for key in ("low", "high"):
        if key not in value:
            wrong = True
            yield (), f"a range needs {key}"
    if not wrong:
        yield from _range_problems(value["low"], value["high"], value.get("log"), value.get("step"))


def _range_problems(low: float, high: float, log: bool | None, step: float | None) -> Iterator[KeyProblem]:
    if low >= high:
        yield ("high",), f"must be above low {low:g}, got {high:g}"
    if log and low <= 0:
        yield ("low",), f"a logarithmic range is above 0, got {low:g}"
    if log and step is not None:
        yield ("step",), "a logarithmic range has no step. Remove one of the two"
    if step is not None and step <= 0:
        yield ("step",), f"must be above 0, got {step:g}"
    elif step is not None and low < high:
        steps = (high - low) / step
        if abs(steps - round(steps)) > 1e-6:
            yield ("high",), f"is no number of steps of {step:g} from {low:g}. Set {low + int(steps) * step:g}"
