"""Tasks: rows of a data set become prompts, targets and references.

    a task's section + rows --read_examples--> examples --with_shots--> examples --benchmark--> predictions

Each module without an underscore is a task kind, named like its file. It opens with a real row and defines the section
of the recipe (a subclass of hflm.recipe.tasks.Task) and what `Kind` in `_kind.py` lists: the default prompt, defaults
for decoding and metrics, `fields`, `references` and `baselines`. Nothing else has to change for a new kind.

The text of a target follows its prompt after one space. Text of the data is never rendered as a template.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
