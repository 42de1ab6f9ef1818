"""The sections `benchmark` and `push` of a recipe: what is measured, and where the result is published."""

from typing import Annotated, Literal

from hflm.recipe.section import License, Positive, Section, Words, count, matching

REPO_ID = r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_]([\w.-]{0,94}\w)?"


class BenchmarkRecipe(Section):
    tasks: Annotated[Words, count(1)]
    """Names under `tasks:`."""
    batch_tokens: Positive | None = None
    """Tokens of a batch; the largest that fits in memory by default."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Number format of the model that is measured; `auto` is the fastest of the device. `model.dtype` by default, else
    float32, in which a score does not depend on the batch."""
    resamples: Positive = 1000
    """Bootstrap resamples behind each 95 % interval."""
    contamination: bool = True
    """Look for the benchmark's examples in the training text."""


class PushRecipe(Section):
    repo_id: Annotated[str, matching(REPO_ID, "namespace/name, as on the Hub")]
    """namespace/name on the Hub."""
    private: bool = True
    """Whether only its owner sees it."""
    license: License | None = None
    """The model's licence, as the Hub names it, for the model card."""
    checkpoints: bool = False
    """Also send the newest checkpoint while the run trains, to the branch `checkpoints`; `hflm run --from-hub` continues
    from it on another machine."""
