"""Documents divided into those for training and those for testing, by their ids."""

from hashlib import sha256

TRAIN, TEST = "train", "test"


def split_of(document: str, test_fraction: float) -> str:
    """ "train" or "test": a function of the document's id alone."""
    position = int.from_bytes(sha256(document.encode()).digest()[8:16], "big") / 2**64
    return TEST if position < test_fraction else TRAIN
