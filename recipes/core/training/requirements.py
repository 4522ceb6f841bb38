"""What the trainer's settings need of this machine and install, asked before anything is read or trained. No torch."""

import os
import shutil
from importlib.util import find_spec

from recipes.core.config.settings import PACKAGE_OF, TrainerConfig
from recipes.core.errors import UserError

# Packages by the names under which they are imported, where these differ.
MODULES = {"torch-optimi": "optimi"}
EXTRAS = {"bitsandbytes": "-e '.[bnb]'"}
COMPILERS = ("g++", "clang++", "c++")


def check_requirements(config: TrainerConfig, device: str) -> None:
    """Refuse settings that this machine cannot train with.

    Args:
        config: Trainer settings.
        device: "cpu" or "cuda".

    Raises:
        UserError: a package, a compiler or a CUDA device is missing; names the key.
    """
    _check_optimizer(config)
    _check_attention(config, device)
    if config.compile:
        _check_compiler(device)


def check_quantisation(load_in: str) -> None:
    """Refuse weights in 4 or 8 bits without the package for them. Raises UserError that names the key."""
    if not is_installed("bitsandbytes"):
        hint = f"{install_hint('bitsandbytes')}, or model.load_in=float32"
        raise UserError("weights in 4 or 8 bits need the package bitsandbytes", f"model.load_in={load_in}", hint)


def install_hint(package: str) -> str:
    """What to type to get a package."""
    return f"type pip install {EXTRAS.get(package, package)}"


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return find_spec(MODULES.get(package, package)) is not None
    except ValueError:  # a module that was put into sys.modules by hand
        return False


def _check_optimizer(config: TrainerConfig) -> None:
    package = PACKAGE_OF.get(config.optimizer)
    if package and not is_installed(package):
        hint = f"{install_hint(package)}, or trainer.optimizer=adamw"
        raise UserError(f"needs the package {package}", f"trainer.optimizer={config.optimizer}", hint)


def _check_attention(config: TrainerConfig, device: str) -> None:
    where, instead = f"trainer.attention={config.attention}", "type trainer.attention=sdpa"
    if config.attention in ("flash_attention_2", "flex_attention") and device != "cuda":
        raise UserError("trains on CUDA devices only, and this run is on the CPU", where, instead)
    if config.attention == "flash_attention_2" and not is_installed("flash_attn"):
        hint = f"type pip install flash-attn --no-build-isolation, or {instead.removeprefix('type ')}"
        raise UserError("needs the package flash-attn", where, hint)


def _check_compiler(device: str) -> None:
    where = "trainer.compile=true"
    if device == "cuda" and not is_installed("triton"):
        raise UserError("needs the package triton", where, "type pip install triton, or trainer.compile=false")
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if device == "cpu" and not any(shutil.which(name) for name in names):
        hint = "install g++ or name a compiler in CXX, or type trainer.compile=false"
        raise UserError(f"needs a C++ compiler, and there is none ({', '.join(names)})", where, hint)
