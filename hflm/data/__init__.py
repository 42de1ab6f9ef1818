"""Read data: rows of tasks, corpora of any number of sources, files of every kind.

Splits, local files, the Hugging Face cache and the generated toy world are here too; `cleaning` filters a corpus, and
`readers` read one file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
