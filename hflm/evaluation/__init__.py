"""Benchmark a model on tasks: scores with intervals, slices, contamination, comparison of runs, plots.

`metrics` holds the metrics themselves.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
