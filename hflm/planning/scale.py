"""What a ladder of small runs says about a recipe: scale.json, which `hflm plan` reads."""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import UserError, atomic_write_text, fingerprint_checksums
from hflm.planning.scaling_law import FLOPS_PER_WEIGHT, Fit, ScalingLaw, fit_law
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILE = "scale.json"
ONCE = 1.05  # passes over a text that count as one
SIZE_KEYS = {
    "gpt2": ("n_embd", "n_layer", "n_head", "n_inner", "initializer_range"),
    "llama": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "initializer_range"),
    ),
}
SIZE_KEYS["qwen3"] = SIZE_KEYS["llama"]
# Of `pretrain.args`: how long, and how often something is looked at; the learning rate follows the size.
LENGTH_ARGS = ("max_steps", "num_train_epochs", "learning_rate", "eval_steps", "logging_steps", "save_steps")


@dataclass(frozen=True)
class Measured:
    """A run of the ladder: N, tokens, validation loss (nats per token), and its training's seconds."""

    parameters: int
    tokens: int
    loss: float
    learning_rate: float
    rate_factor: float
    seconds: float


@dataclass(frozen=True)
class Expected:
    """What the law says of N parameters and D tokens, with 95 % intervals. Bits per byte: None where not measured."""

    parameters: float
    tokens: float
    loss: float
    loss_ci95: tuple[float, float]
    bits_per_byte: float | None


@dataclass(frozen=True)
class Scale:
    """A ladder's outcome. `own` is the recipe's model; `best` what the same FLOPs reach at the best split of them.

    `best_parameters_ci95`: of the best N. `family` tells whether another recipe differs in size and length alone.
    `bits_per_nat` turns a loss into bits per byte of the validation text.
    """

    recipe: str
    family: str
    runs: tuple[Measured, ...]
    own: Expected
    best: Expected
    best_parameters_ci95: tuple[float, float]
    corpus_tokens: int | None
    bits_per_nat: float | None
    fit: Fit

    @property
    def law(self) -> ScalingLaw:
        return self.fit.law

    @property
    def smallest(self) -> Measured:
        """The smallest and shortest point of the law, at which other learning rates are tried."""
        return min(
            (each for each in self.runs if each.rate_factor == 1), key=lambda each: (each.parameters, each.tokens)
        )

    @property
    def better_rates(self) -> list[Measured]:
        """The trials of the learning rate that ended better than the rule's by more than 1 %."""
        return [each for each in self.runs if each.rate_factor != 1 and each.loss < 0.99 * self.smallest.loss]


def family_of(recipe: Recipe) -> str:
    """A checksum of all that two recipes of one ladder have in common: all of it but size, length and rate."""
    plain = recipe.model_dump(mode="json", by_alias=True)
    model = {**recipe.model.config}
    for key in SIZE_KEYS.get(model.get("model_type", "gpt2"), ()):
        model.pop(key, None)
    pretrain = dict(plain["pretrain"] or {})
    pretrain.pop("tokens", None)
    pretrain["args"] = {key: value for key, value in pretrain.get("args", {}).items() if key not in LENGTH_ARGS}
    content = {"model": model, "tokenizer": plain["tokenizer"], "pretrain": pretrain}
    return fingerprint_checksums([], content)


def conclude(
    recipe: Recipe,
    runs: Sequence[Measured],
    parameters: int,
    tokens: int,
    corpus_tokens: int | None,
    bits_per_nat: float | None,
) -> Scale:
    """The Scale of the runs for a recipe of N parameters and D tokens."""
    on_law = [each for each in runs if each.rate_factor == 1]
    fit = fit_law(
        [each.parameters for each in on_law],
        [each.tokens for each in on_law],
        [each.loss for each in on_law],
        seed=recipe.seed,
    )
    flops = FLOPS_PER_WEIGHT * parameters * tokens

    def expected(n: float, d: float) -> Expected:
        loss = fit.law.loss(n, d)
        return Expected(n, d, loss, fit.interval(n, d), bits_per_nat and loss * bits_per_nat)

    return Scale(
        recipe=recipe.name,
        family=family_of(recipe),
        runs=tuple(runs),
        own=expected(parameters, tokens),
        best=expected(*fit.law.optimum(flops)),
        best_parameters_ci95=fit.optimum_interval(flops),
        corpus_tokens=corpus_tokens,
        bits_per_nat=bits_per_nat,
        fit=fit,
    )


@functools.cache
def _adapter() -> "TypeAdapter[Scale]":
    from pydantic import TypeAdapter

    return TypeAdapter(Scale)


def write_scale(scale: Scale, path: Path) -> None:
    atomic_write_text(path, json.dumps(asdict(scale), indent=2, allow_nan=False) + "\n")


def read_scale(path: Path) -> Scale:
    """Raises UserError for a file that is missing or not one of hflm's."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `hflm scale RECIPE` makes it") from None
    except ValidationError as error:
        raise UserError(f"{path}: no {FILE} of hflm's: {error.errors()[0]['msg']}") from None


def scale_folder(recipe: Recipe) -> Path:
    """Where `hflm scale` writes by default."""
    return Path("runs") / f"{recipe.name}-scale"


def predicted_loss(
    recipe: Recipe, parameters: int, tokens: float | None, file: Path | None = None
) -> dict[str, Any] | None:
    """What a ladder says of N parameters and D tokens: that of `file`, else the one of a recipe of this name.

    None without one of the recipe's family. Raises UserError for a `file` that is of another.
    """
    path = file or scale_folder(recipe) / FILE
    if tokens is None or (file is None and not path.is_file()):
        return None
    scale = read_scale(path)
    if scale.family != family_of(recipe):
        if file is None:
            return None
        raise UserError(
            f"{path}: is of models that differ from the recipe {recipe.name} in more than size, length and learning rate, "
            f"so its law does not hold here. `hflm scale {recipe.name}` makes one that does"
        )
    loss = scale.law.loss(parameters, tokens)
    found: dict[str, Any] = {
        "loss": loss,
        "loss_ci95": scale.fit.interval(parameters, tokens),
        "source": str(path),
        "passes": passes(tokens, scale.corpus_tokens),
    }
    if scale.bits_per_nat is not None:
        found["bits_per_byte"] = loss * scale.bits_per_nat
    return found


def passes(tokens: float, corpus_tokens: int | None) -> str:
    """How often the corpus is read, or '' where its size is not known.

    >>> passes(2_430_000, 714_689)
    '3.4 passes over a corpus of 714,689 tokens; the law is too optimistic for text that is read more than once'
    """
    if not corpus_tokens:
        return ""
    times = tokens / corpus_tokens
    number = f"{times:.2g}"
    text = f"{number} pass{'es' * (number != '1')} over a corpus of {corpus_tokens:,} tokens"
    # The law counts repeated text as new. How far that is wrong depends on N and D (Muennighoff et al. 2023, arXiv
    # 2305.16264); docs/scale.md has a measurement.
    repeated = ONCE < times and math.isfinite(times)
    return f"{text}; the law is too optimistic for text that is read more than once" if repeated else text
