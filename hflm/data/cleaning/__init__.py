"""What is left out of a corpus: filters, Gopher's repetition rules, exact duplicates and near-duplicates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
