"""The training stream: noise that is planted and known, numbers of the random control, what a batch holds."""

import numpy as np

from recipes.core.text_recipe.config import NoiseConfig
from recipes.core.text_recipe.items import NoisyItems, RandomItems, text_collate


class Clean:
    """400 sequences of 20 tokens, all of them 1; every other one is the first once more."""

    def __len__(self):
        return 400

    def __getitem__(self, index):
        name = f"sequence {index if index % 2 else 0}"
        return {"id": name, "tokens": np.ones(20, np.int32), "domain": 0, "duplicate": False}


def noisy(**changes):
    return NoisyItems(Clean(), NoiseConfig(**{"share": 0.25, "span": 4} | changes), {7, 8, 9})


def test_noise_is_drawn_from_the_vocabulary_and_known():
    rows = [noisy()[index] for index in range(1, 400, 2)]
    for row in rows:
        assert set(row["tokens"][row["planted"]].tolist()) <= {7, 8, 9}
        assert (row["tokens"][~row["planted"]] == 1).all() and row["tokens"].dtype == np.int32
        assert (row["planted"].reshape(5, 4).all(1) == row["planted"].reshape(5, 4).any(1)).all()  # whole stretches
    assert abs(np.mean([row["planted"] for row in rows]) - 0.25) < 0.05
    assert not any(noisy(share=0.0)[index]["planted"].any() for index in range(9))


def test_a_sequence_that_comes_again_has_the_same_noise():
    items = noisy()
    for index in (2, 8):
        assert (items[index]["tokens"] == items[0]["tokens"]).all()
    assert any((items[0]["tokens"] != items[index]["tokens"]).any() for index in (1, 3, 5, 7))
    assert any((items[i]["tokens"] != noisy(seed=1)[i]["tokens"]).any() for i in range(9))


def test_random_numbers_follow_from_seed_and_index():
    items = RandomItems(Clean(), 3)
    assert (items[5]["random"] == RandomItems(Clean(), 3)[5]["random"]).all()
    for other in (items[7]["random"], items[0]["random"], RandomItems(Clean(), 4)[5]["random"]):
        assert (items[5]["random"] != other).any()


def test_arrays_of_a_batch_stand_where_their_token_is_predicted():
    row = Clean()[0] | {"tokens": np.arange(4, dtype=np.int32), "planted": np.array([True, False, True, True])}
    batch = text_collate([row, row])
    assert batch["labels"].tolist() == [[1, 2, 3, -100]] * 2
    assert batch["planted"].tolist() == [[False, True, True, False]] * 2
    assert batch["ids"] == ["sequence 0"] * 2


def test_every_process_names_the_arrays_of_a_batch_in_the_same_order():
    item = RandomItems(noisy(), 0)[0] | {name: np.zeros(20) for name in "edcba"}
    assert list(text_collate([item]))[-7:] == ["a", "b", "c", "d", "e", "planted", "random"]
