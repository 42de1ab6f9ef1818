"""Build or load a model; adapters; the loss; the arithmetic of an architecture from its config alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
