"""Ask a model: batched answers, endpoints, generated text, log-likelihoods token by token."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
