"""What this machine lacks is refused by key before anything is read."""

import pytest
from transformers.training_args import OptimizerNames

from recipes.core.config.compose import compose
from recipes.core.config.settings import PACKAGE_OF, TORCH_OPTIMIZERS, TrainerConfig
from recipes.core.errors import UserError
from recipes.core.training import requirements
from recipes.core.training.requirements import check_requirements

# Need a device that is not CUDA, modules to be named, a step of their own, or modes of training and evaluation.
LEFT_OUT = {
    *("adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision", "lomo", "adalomo"),
    *(f"schedule_free_{kind}" for kind in ("radam", "adamw", "sgd")),
    *(name.value for name in OptimizerNames if name.value.startswith(("galore_", "apollo_"))),
}


def refusal(device: str = "cpu", **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        check_requirements(TrainerConfig(**settings), device)  # type: ignore[arg-type]
    return str(caught.value)


def test_optimizers_are_those_of_transformers() -> None:
    names = {*TORCH_OPTIMIZERS, *PACKAGE_OF} - {"adamw"}
    assert names | LEFT_OUT == {name.value for name in OptimizerNames} and not names & LEFT_OUT


def test_an_optimizer_that_people_expect_is_refused_with_a_reason() -> None:
    with pytest.raises(UserError) as caught:
        compose("prior", ["trainer.optimizer=muon"])
    assert "trainer.optimizer = muon: transformers has no such optimizer, and torch's takes matrices" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("optimizer", "package", "install"),
    [
        ("adamw_bnb_8bit", "bitsandbytes", "-e '.[bnb]'"),
        ("adamw_torch_8bit", "torchao", "torchao"),
        ("stable_adamw", "torch-optimi", "torch-optimi"),
    ],
)
def test_an_optimizer_whose_package_is_missing(
    optimizer: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    expected = f"needs the package {package}\n  type pip install {install}, or trainer.optimizer=adamw"
    assert refusal(optimizer=optimizer) == f"trainer.optimizer={optimizer}: {expected}"


def test_attention_that_the_device_or_the_install_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("flash_attention_2", "flex_attention"):
        text = refusal(attention=kind)
        assert text.startswith(f"trainer.attention={kind}: trains on CUDA devices only") and "=sdpa" in text
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert "needs the package flash-attn" in refusal("cuda", attention="flash_attention_2")
    check_requirements(TrainerConfig(attention="flex_attention"), "cuda")
    check_requirements(TrainerConfig(attention="eager"), "cpu")


def test_compilation_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a C++ compiler, and there is none (no-such-compiler)" in refusal(compile=True)
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert "needs the package triton" in refusal("cuda", compile=True)


def test_weights_that_are_shared_out_take_no_other_optimizer() -> None:
    problems = TrainerConfig(parallel="fsdp", nproc=2, batch_size=4, optimizer="adafactor").check()
    assert [key for key, _ in problems] == ["optimizer"]
    assert TrainerConfig(parallel="fsdp", nproc=2, batch_size=4, compile=True).check() == []
