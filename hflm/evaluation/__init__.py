"""Benchmark a model on tasks: scores with intervals, slices, contamination, comparison of runs, plots.

`metrics` holds the metrics themselves.
"""
