"""Read data: tasks' rows (`load`), corpora of any number of sources (`corpus`), files of every kind (`readers`).

Splits, local files, the Hugging Face cache and the generated toy world are here too; `cleaning` filters a corpus.
"""
