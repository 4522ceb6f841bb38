"""Which keys of a config decide what a run is. Imports nothing."""

from typing import Any

# Cannot change the result, so they are not part of a run's identity.
NOT_IDENTITY: tuple[str, ...] = ("outputs", "label", "tracker", "trainer.save_steps", "trainer.log_steps")
NOT_IDENTITY += ("trainer.gradient_checkpointing", "trainer.workers", "trainer.check_memory")
# Came after runs had been filed: at this value a run is what it was without the key, which is then no part of its
# identity, so that those runs are still found.
LATER_KEYS: dict[str, Any] = {
    "data.near_duplicates": None,
    "data.paths": None,
    "evaluation.extra": None,
    "reference.store": "auto",
    "reference.max_gib": 8.0,
    "model.load_in": "float32",
    "lora.rank": 0,
    "lora.alpha": 16.0,
    "lora.targets": [],
    "trainer.adam_epsilon": 1e-8,
    "trainer.decay_ratio": 0.1,
    "trainer.attention": "auto",
    "trainer.compile": False,
    "trainer.dtype": "float32",
    "trainer.group_by_length": False,
    "trainer.max_flops": None,
    "trainer.nodes": 1,
    "trainer.early_stopping.metric": None,
    "trainer.early_stopping.patience": 3,
    "trainer.early_stopping.min_delta": 0.0,
}
# Recipes that had some of them from the start: there they are part of the identity.
EARLIER_KEYS = {"sparsepo": ("lora.rank", "lora.alpha", "lora.targets")}
