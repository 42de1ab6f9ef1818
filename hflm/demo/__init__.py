"""The local page of `hflm demo`: its server (`serve`), its layout (`app`), what it shows and answers (`session`), its tabs (`tabs`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
