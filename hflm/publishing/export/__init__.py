"""`hflm export`: a model in the format of another tool, any adapter merged, the vocabulary cut to the tokenizer's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
