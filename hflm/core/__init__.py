"""What every other package uses: errors, logging, hardware, files that are written atomically, redaction, formatting.

Nothing here depends on recipes, data sets or models, and nothing imports torch, transformers or datasets at import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
