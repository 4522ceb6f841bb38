"""`steelyard export`: the model that a run trained, as others load it."""

from pathlib import Path
from typing import Any

import typer

from cli import completion
from cli.console import pairs
from cli.keys import OUTPUTS, target_folder
from cli.report import newest
from cli.results import JSON, print_result
from recipes.core.config import registry
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.storage.files import home_path
from recipes.core.storage.places import ADAPTER, CAPTION_MODEL, run_of


def export(
    target: str = typer.Argument(
        metavar="RUN_FOLDER|RECIPE",
        help="The run; of a recipe, the finished run that started last.",
        autocompletion=completion.recipes,
    ),
    to: Path = typer.Option(
        None, "--to", metavar="FOLDER", help="Copy the model into this folder, which must be empty or new."
    ),
    push: str = typer.Option("", "--push", metavar="NAME", help="Upload it to the hub as NAME; a new one is private."),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """Write the model of a run as `from_pretrained` takes it.

    With its tokenizer and a model card; without --to into `hf/` of the run folder, where runs leave it anyway.
    """
    if push:
        from recipes.core.export.push import check_can_push

        check_can_push(push)
    folder = target_folder(to, beside=True) if to else None
    run = run_at(target, outputs)
    from recipes.core.export import folder as exports
    from recipes.core.trial.answers import answer_of

    answer = answer_of(run)
    folder = exports.export_to(run, folder, answer) if folder else exports.export_in_run(run, answer)
    address = _push(folder, push, run) if push else ""
    if as_json:
        print_result("export", {"run": str(run.path), "folder": str(folder), "pushed": address or None})
    else:
        pairs(_rows(run, folder, address))


def run_at(target: str, outputs: Path) -> RunRecord:
    """The run that a folder stands for, or the newest finished one of a recipe.

    Raises:
        UserError: it is neither.
    """
    path = home_path(target)
    if target in registry.recipe_names() or not path.exists() and "/" not in target:
        return load_run(newest(target, outputs))
    return load_run(run_of(path) or path)


def _push(folder: Path, name: str, run: RunRecord) -> str:
    from recipes.core.export.push import push

    return push(folder, name, f"{run.recipe}: {run.arm}, seed {run.seed}")


def _rows(run: RunRecord, folder: Path, address: str) -> list[tuple[str, str]]:
    from recipes.core.export.card import auto_class

    rows: list[tuple[str, Any]] = [("run", run.path), ("model", folder)]
    if kind := auto_class(folder):
        rows.append(("load it", f'{kind}.from_pretrained("{folder}")'))
    if (folder / CAPTION_MODEL).exists():
        rows.append(("load it", f'recipes.core.models.caption_folder.load_caption_model(Path("{folder}"))'))
    if (folder / ADAPTER).exists():
        rows.append(("adapters alone", folder / ADAPTER))
    rows += [("card", folder / "README.md"), *([("pushed", f"{address} (a new one is private)")] if address else [])]
    return [(what, str(value)) for what, value in rows]
