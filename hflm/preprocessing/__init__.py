"""From texts to rows of token ids: the tokenizer, encoded text cached on disk, packing, streaming, truncation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
