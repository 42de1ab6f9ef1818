"""A recipe: YAML to a frozen `Recipe`, or all its problems with file and line.

`load_recipe` reads one. One module holds the keys of one section. The names of the options that are passed through to
the libraries are in names.json, so that a recipe is checked in milliseconds, without torch, transformers or datasets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
