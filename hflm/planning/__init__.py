"""What a recipe takes before it runs: parameters, memory, FLOPs and time, and whether it fits the machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
