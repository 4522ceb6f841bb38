"""Documents for training and for testing, told apart by their ids."""

from hashlib import sha256

TRAIN, TEST = "train", "test"


def split_of(document: str, test_fraction: float) -> str:
    """ "train" or "test": a function of the document's id alone."""
    place = int.from_bytes(sha256(document.encode()).digest()[8:16], "big") / 2**64
    return TEST if place < test_fraction else TRAIN
