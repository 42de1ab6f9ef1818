"""What every other package uses: errors, hardware, the files of a run, redaction, markdown and HTML.

Nothing here knows recipes, data sets or models, and nothing imports torch, transformers or datasets at import time.
"""
