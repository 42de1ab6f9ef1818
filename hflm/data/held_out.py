"""Which documents of a corpus are held out for validation."""

import hashlib


def split_held_out(documents: list[str], fraction: float, rows: str) -> tuple[list[str], list[str]]:
    """Split documents into (train, validation).

    By the hash of each document, so that adding data never moves one from validation to train; a running text
    (`rows: lines`) is cut once, near its end.
    """
    if rows == "lines":
        cut = max(1, round(len(documents) * fraction))
        return documents[:-cut], documents[-cut:]
    train: list[str] = []
    validation: list[str] = []
    for document in documents:
        (validation if text_fraction(document) < fraction else train).append(document)
    return train, validation


def text_fraction(document: str) -> float:
    """A number from 0 to below 1 that depends on the document's text alone."""
    return int.from_bytes(hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
