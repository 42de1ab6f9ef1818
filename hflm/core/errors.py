"""The errors that hflm reports to users.

HflmError
├── UserError              the user must change something: one message, exit code 2, no traceback
│   ├── RecipeError        every problem of a recipe, each as `file:line  key.path: what is wrong. What to do`
│   ├── DataError          a data set, file or row that cannot be used as the recipe says
│   ├── ModelError         a model or tokenizer that cannot be found, read or built
│   ├── TrainingError      training that cannot continue: a full disk, a loss that is not finite...
│   │   └── SettingsError  ... because of the recipe's settings: the loss diverges, a step does not fit into memory
│   ├── FolderInUse        another process is writing into the run's folder
│   ├── EndpointError      a model's endpoint that cannot be reached, refuses, or returns an invalid answer
│   └── MissingExtra       an optional package that is not installed, with the command that installs it
├── HubError               the Hub or the connection to it kept failing: one message, exit code 1
└── Stopped                SIGTERM or Ctrl-C arrived, a checkpoint is saved: exit code 143 or 130

Anything else that reaches the command line is a bug in hflm: a traceback and exit code 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass


class HflmError(Exception):
    """Base of all errors below."""


class UserError(HflmError):
    """The user must change something; the message says what and how."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe.

    >>> str(Problem("a.yaml", 3, "model.n_layr", "unknown key. Did you mean n_layer?"))
    'a.yaml:3  model.n_layr: unknown key. Did you mean n_layer?'
    """

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        position = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{position}  {self.key}: {self.text}" if self.key else f"{position}  {self.text}"


class RecipeError(UserError):
    """All problems of a recipe, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        closing = f"{count} problem{'s' * (count != 1)}; nothing was run."
        super().__init__("\n".join([*map(str, self.problems), closing]))


class DataError(UserError):
    """A data set, file or row that cannot be used as the recipe says."""


class ModelError(UserError):
    """A model or tokenizer that cannot be found, read or built."""


class TrainingError(UserError):
    """Training cannot continue: a loss that is not finite, too little memory, a full disk."""


class SettingsError(TrainingError):
    """These settings cannot be trained: the loss diverges, or a step does not fit into memory."""


class FolderInUse(UserError):
    """Another process is writing into the run's folder."""


class EndpointError(UserError):
    """A model's endpoint that cannot be reached, refuses, or returns an invalid answer."""


class MissingExtra(UserError):
    """An optional package is not installed.

    >>> str(MissingExtra("gguf", "reading a .gguf file"))
    "reading a .gguf file needs an optional package: uv sync --extra gguf (or pip install 'hflm-recipes[gguf]')"
    """

    def __init__(self, extra: str, purpose: str, command: str | None = None) -> None:
        install = f"`uv run --extra {extra} {command}`" if command else f"uv sync --extra {extra}"
        super().__init__(f"{purpose} needs an optional package: {install} (or pip install 'hflm-recipes[{extra}]')")


class HubError(HflmError):
    """The Hub could not be reached or kept failing; the message names the command that retries."""


class Stopped(HflmError):
    """Training stopped on SIGTERM or Ctrl-C after saving a checkpoint; the same command continues it."""

    def __init__(self, message: str, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code
