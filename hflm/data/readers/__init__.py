"""The rows of one file, as the file says: read one by one, each bad row reported by file and line."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
