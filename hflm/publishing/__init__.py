"""What leaves the machine: the model card, the Hub, a Space, other file formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
