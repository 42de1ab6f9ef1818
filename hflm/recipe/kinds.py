"""The kinds of task: one for each public module of hflm.tasks, which extends a class of hflm.recipe.tasks.

The modules are imported by name, because that package is above this one.
"""

import importlib
import pkgutil


def kind_names() -> tuple[str, ...]:
    """The names of the kinds, without importing them.

    >>> "translation" in kind_names()
    True
    """
    package = importlib.import_module("hflm.tasks")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_"))


def kind_metrics(kind: str) -> tuple[str, ...]:
    """The metrics of a kind where the recipe names none; () for a kind that this hflm lacks.

    >>> kind_metrics("sentiment")
    ('accuracy', 'macro_f1', 'mcc')
    """
    return importlib.import_module(f"hflm.tasks.{kind}").METRICS if kind in kind_names() else ()


def kind_sections() -> tuple[type, ...]:
    """The section of a recipe for each kind: the subclass of Task that the kind's module defines."""
    from hflm.recipe.tasks import Task

    sections = []
    for name in kind_names():
        module = importlib.import_module(f"hflm.tasks.{name}")
        own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
        sections += [each for each in own if issubclass(each, Task)]
    return tuple(sections)
