"""A run from the recipe to the model card.

`run` runs a recipe's stages in order, `bench` its benchmark alone on any model, `fetch` brings what a recipe reads.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
