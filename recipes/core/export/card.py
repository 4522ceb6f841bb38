"""The card of a model, README.md, as the Hugging Face hub reads it: what trained it, on what, and how well it did."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config.flops import FLOPS, STEPS
from recipes.core.config.settings import Card
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import RunRecord, flatten, is_below
from recipes.core.statistics.claims import card_of
from recipes.core.statistics.texts import number_text
from recipes.core.storage import hub
from recipes.core.storage.assets import ASSETS
from recipes.core.storage.files import home_path, read_json, write_text
from recipes.core.storage.places import ADAPTER, CLASSES, HEAD, HF, LANGUAGE_MODEL, PROJECTION
from recipes.core.storage.seals import MANIFESTS

CARD, CONFIG = "README.md", "config.json"
TEXT, IMAGES, STATES = "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel"
MASKED = "AutoModelForMaskedLM"
PIPELINES = {
    TEXT: "text-generation",
    IMAGES: "image-text-to-text",
    STATES: "feature-extraction",
    MASKED: "fill-mask",
}
PROCESSOR, OF_PICTURES = "preprocessor_config.json", "image-feature-extraction"  # of encoders that read images
WHERE = ("", "# FOLDER: the folder of this page, or its name on the hub")
# Of a caption model that no class of transformers is.
CAPTION_CODE: tuple[str, ...] = (
    f"from transformers import {TEXT}",
    *WHERE,
    f'decoder = {TEXT}.from_pretrained("FOLDER", subfolder="{LANGUAGE_MODEL}")',
    "# That is the language model alone. The whole model is no class of transformers; in a checkout of Steelyard, with",
    "# the folder on this machine, captions follow model.prefix_ids and model.pixels(image):",
    "from pathlib import Path",
    "",
    "from recipes.core.models.caption_folder import load_caption_model",
    "",
    'model = load_caption_model(Path("FOLDER"))',
)
PROJECTION_CODE: tuple[str, ...] = (
    "",
    f"# It was trained with a linear map behind it, which {PROJECTION} holds:",
    "from safetensors.torch import load_file",
    "from torch.nn.functional import normalize",
    "",
    f'weight = load_file("FOLDER/{PROJECTION}")["weight"]',
    'states = model(**tokenizer(["a text"], return_tensors="pt")).last_hidden_state',
    "vectors = normalize(states @ weight.T, dim=-1)  # of each token",
)
# One vector of the states of one text, by how the head's training pooled them.
POOLED = {"mean": "states.mean(1)", "first": "states[:, 0]", "last": "states[:, -1]"}
PIECE = re.compile(r"[^\s=:,\[\]{}'\"][^=:,\[\]{}'\"]*")  # of a value, which may be a list or a mixture
PATCH = "<vpatch>"  # the image token of models that are made here
# Name of a model in a config -> the asset, and its model on the hub.
OF_ASSETS = {
    "smollm2-135m": ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "minilm": ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
}
# Settings that say how any model was trained.
TRAINER = (
    "max_steps",
    "max_flops",
    "batch_size",
    "optimizer",
    "learning_rate",
    "schedule",
    "weight_decay",
    "precision",
)


@dataclass(frozen=True)
class Answer:
    """What the trial that a run is part of came to.

    Attributes:
        claim: Of the paper.
        headline: The verdict, with its price.
        reason: Why.
        published: What the paper measured.
        command: That of the trial.
    """

    claim: str
    headline: str
    reason: str
    published: str
    command: str


@dataclass(frozen=True)
class Base:
    """The model that training began with.

    Attributes:
        text: In words.
        name: The model on the hub that it is or comes from; empty where none is known.
        licence: Its licence, where that is known.
        exact: Whether its weights are those of the hub.
    """

    text: str
    name: str = ""
    licence: str = ""
    exact: bool = False

    @property
    def hub_name(self) -> str:
        """The name under which the hub has exactly these weights; empty if it has not."""
        return self.name if self.exact else ""


def write_card(run: RunRecord, folder: Path, answer: Answer | None) -> None:
    """Write README.md into a folder that holds the run's model.

    Args:
        run: The run, measured.
        folder: The folder.
        answer: That of the trial it is part of; None if there is none.
    """
    card, base, trains = card_of(run), base_of(run), RunFolder(run.path).status().get("max_steps") != 0
    front = yaml.safe_dump(front_matter(run, base, folder), sort_keys=False, allow_unicode=True)
    origin, verb = ("trained", "train") if trains else ("made without training", "make")
    parts = [
        f"---\n{front}---",
        f"# {run.recipe}: {run.arm}, seed {run.seed}",
        f"What one run of Steelyard {origin}. **{card.title}.** {card.summary} Paper: {card.paper}.",
        f"## Load it\n\n{_code(folder, base)}",
        f"## How it was {origin}\n\n{_table(('', ''), _settings(run, card, base, trains))}",
        f"## What was measured\n\n{_table(('metric', 'value', 'meaning'), _metrics(run, card))}",
        f"## Does the claim hold?\n\n{_verdict(answer)}",
        f"## How to {verb} it again\n\n{_command(run)}",
    ]
    write_text(folder / CARD, "\n\n".join(parts) + "\n")


def renew_card(run: RunRecord, answer: Answer | None) -> None:
    """Write the card in a run's `hf/` again, now that its trial has an answer; nothing where it has none."""
    if (run.path / HF / MANIFESTS[HF]).exists():
        write_card(run, run.path / HF, answer)


def front_matter(run: RunRecord, base: Base, folder: Path) -> dict[str, Any]:
    """What the hub reads at the head of a card; what is not known is left out."""
    kind, data = auto_class(folder), str((run.config.get("data") or {}).get("path") or "")
    known = {
        "license": base.licence,
        "base_model": base.name,
        "datasets": [data.partition("@")[0]] if hub.is_name(data) and "/" in data else [],
        "library_name": "transformers" if kind else "",
        "pipeline_tag": OF_PICTURES if _reads_pictures(folder) else PIPELINES.get(kind, ""),
        "tags": ["steelyard", run.recipe, *(["lora"] if (folder / ADAPTER).exists() else [])],
    }
    return {key: value for key, value in known.items() if value}


def base_of(run: RunRecord) -> Base:
    """The model that training began with."""
    model = run.config.get("model") or {}
    path = model.get("path")
    if not path:
        if known := OF_ASSETS.get(model.get("name", "")):
            asset, name = known
            return Base(f"{name} ({ASSETS[asset].label})", name, ASSETS[asset].licence.lower())
        return Base("none: made and trained in the run")
    if hub.is_name(path):
        return Base(path, path.partition("@")[0], _licence(_in_hub_cache(path.partition("@")[0])), True)
    return Base(f"the folder {home_path(path).name}", "", _licence(home_path(path) / CARD))


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, CARD)
    return Path(path) if isinstance(path, str) else None


def _licence(card: Path | None) -> str:
    """The licence that a model's card names; empty if it has none that can be read."""
    try:
        text = card.read_text(encoding="utf-8") if card else ""
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return ""
    licence = front.get("license") if isinstance(front, dict) else ""
    return licence if isinstance(licence, str) else ""


def auto_class(folder: Path) -> str:
    """The Auto class of `transformers` that loads what a folder holds; empty if none does."""
    if not (folder / CONFIG).exists():
        return ""
    config = read_json(folder / CONFIG)
    name = (config.get("architectures") or [""])[0]
    if name.endswith("ForMaskedLM"):
        return MASKED
    if name.endswith("Model") and not name.endswith("LMHeadModel"):  # of the models without a head
        return STATES
    return IMAGES if "vision_config" in config else TEXT


def _reads_pictures(folder: Path) -> bool:
    return auto_class(folder) == STATES and (folder / PROCESSOR).exists()


def _code(folder: Path, base: Base) -> str:
    """How to load what the folder holds."""
    kind, lines = auto_class(folder), CAPTION_CODE
    if kind == IMAGES:
        lines = (f"from transformers import {kind}, AutoProcessor", *WHERE, f'model = {kind}.from_pretrained("FOLDER")',
                 'processor = AutoProcessor.from_pretrained("FOLDER")', *_prompt(folder))  # fmt: skip
    elif _reads_pictures(folder):
        lines = (
            f"from transformers import {kind}, AutoImageProcessor",
            *WHERE,
            f'model = {kind}.from_pretrained("FOLDER")',
            'processor = AutoImageProcessor.from_pretrained("FOLDER")',
        )
    elif kind:
        lines = (f"from transformers import {kind}, AutoTokenizer", *WHERE, f'model = {kind}.from_pretrained("FOLDER")',
                 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")')  # fmt: skip
    if (folder / ADAPTER).exists():
        lines += _adapter_code(base)
    if (folder / PROJECTION).exists():
        lines += PROJECTION_CODE
    if (folder / HEAD).exists():
        lines += _head_code(read_json(folder / CLASSES)["pooling"])
    return "```python\n" + "\n".join(lines) + "\n```"


def _head_code(pooling: str) -> tuple[str, ...]:
    """How to ask for the class of a text."""
    return (
        "",
        f"# It was trained with a linear head behind it, which {HEAD} holds:",
        "import json",
        "from pathlib import Path",
        "",
        "from safetensors.torch import load_file",
        "",
        f'head = load_file("FOLDER/{HEAD}")',
        f'classes = json.loads(Path("FOLDER/{CLASSES}").read_text(encoding="utf-8"))["classes"]',
        'states = model.base_model(**tokenizer("a text", return_tensors="pt")).last_hidden_state',
        f'logits = {POOLED[pooling]} @ head["weight"].T + head["bias"]',
        "print(classes[int(logits.argmax())])",
    )


def _adapter_code(base: Base) -> tuple[str, ...]:
    name, _, revision = (base.hub_name or "BASE").partition("@")
    chosen = f', revision="{revision}"' if revision else ""
    return (
        "",
        "# The adapters are merged into these weights. By themselves, beside the weights that they were trained on"
        + (":" if base.hub_name else " (BASE):"),
        "from peft import PeftModel",
        "",
        f'base = {TEXT}.from_pretrained("{name}"{chosen})',
        f'model = PeftModel.from_pretrained(base, "FOLDER", subfolder="{ADAPTER}")',
    )


def _prompt(folder: Path) -> tuple[str, ...]:
    """How a model whose image tokens were made here is asked: as it was trained; others say it in their own card."""
    processor, tokenizer = folder / "processor_config.json", folder / "tokenizer_config.json"
    image = read_json(processor).get("image_token") if processor.exists() else None
    if image != PATCH or not tokenizer.exists():
        return ()
    tokens = read_json(tokenizer)
    start = tokens.get("bos_token") or tokens.get("eos_token")
    return (
        "",
        "# A caption follows this prompt; IMAGE: a file",
        "from PIL import Image",
        "",
        'image = Image.open("IMAGE")',
        f'inputs = processor(images=image, text="{start}{image}", return_tensors="pt")',
    )


def _settings(run: RunRecord, card: Card, base: Base, trains: bool) -> list[tuple[str, str]]:
    """Recipe, base, data, and how it was made: settings of the trainer if it trains, adapters', the arm's."""
    data, flat = run.config.get("data") or {}, flatten(run.config)
    counted = flat.get(FLOPS) is not None  # then the run was as long as its operations allow, whatever steps it has
    flat.pop(STEPS if counted else FLOPS, None)
    rows = [("recipe", run.recipe), ("arm", run.arm), ("weighted", card.weights), ("base model", base.text)]
    rows += [("data", f"{data.get('name', '')} {without_folders(str(data.get('path') or ''))}".strip())]
    rows += [("steps", f"{RunFolder(run.path).status()['step']:,}")] if counted and trains else []
    keys = set(card.pair_keys) - {"arm"} | ({f"trainer.{name}" for name in TRAINER} if trains else set())
    keys |= {"lora"} if (run.config.get("lora") or {}).get("rank") else set()
    rows += [(f"`{key}`", without_folders(str(value))) for key, value in flat.items() if is_below(key, keys)]
    return [(key, value) for key, value in [*rows, ("`seed`", str(run.seed))] if value]


def _metrics(run: RunRecord, card: Card) -> list[tuple[str, str, str]]:
    """The metrics that head the run's page."""
    shown = [name for name in run.metrics if name.startswith(card.headlines) or name == card.claim.metric]
    return [(f"`{name}`", number_text(run.metrics[name]), run.info.get(name, {}).get("title", "")) for name in shown]


def _verdict(answer: Answer | None) -> str:
    if answer is None:
        return "Not answered by this model alone: it is part of no finished trial."
    return (
        f"**{answer.headline}**: {answer.claim}. {answer.reason}. Published: {answer.published}.\n\n"
        f"The trial that this model is part of:\n\n    {command_without_folders(answer.command)}"
    )


def _command(run: RunRecord) -> str:
    environment = RunFolder(run.path).read_json("env.json")
    packages = ", ".join(f"{name} {version}" for name, version in (environment.get("packages") or {}).items())
    command = environment.get("command", f"steelyard run {run.recipe} arm={run.arm}")
    lines = [f"    {command_without_folders(command)}"]
    if environment.get("commit"):
        lines += ["", f"Commit {environment['commit']} of Steelyard; {packages}."]
    return "\n".join(lines)


def command_without_folders(command: str) -> str:
    """A command in which paths of this machine are their last names."""
    try:
        words = shlex.split(command)
    except ValueError:  # not one of ours
        words = command.split()
    shown = [without_folders(word) for word in words]
    return command if shown == words else shlex.join(shown)


def without_folders(text: str) -> str:
    """A value, or KEY=VALUE, in which paths of this machine are their last names; names of the hub stay."""
    return PIECE.sub(lambda piece: _last_name(piece[0]), text)


def _last_name(piece: str) -> str:
    is_path = piece.startswith(("/", "~", "./", "../")) or ("/" in piece and " " not in piece)
    return Path(piece).name if is_path and not hub.is_name(piece) else piece


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
