"""`steelyard assets`: models and data carried by the package index."""

from typing import Any

import typer

from cli import completion
from cli.console import pairs, table
from cli.results import JSON, print_result
from recipes.core.errors import RunFailed
from recipes.core.storage import assets

app = typer.Typer(help="List, fetch or verify models and data of the package index.")

_NAMES = typer.Argument(metavar="NAME", help="Names of assets.", autocompletion=completion.asset_names)
_OPTIONAL_NAMES = typer.Argument(
    None,
    metavar="NAME",
    help="Names of assets; all that are fetched if none.",
    autocompletion=completion.asset_names,
)


@app.command("list")
def list_assets(as_json: bool = JSON) -> None:
    """List the assets with licence, source and whether they are on this machine."""
    if as_json:
        print_result("assets list", [_as_dict(name) for name in assets.ASSETS])
        return
    rows = []
    for name, asset in assets.ASSETS.items():
        rows.append(
            {
                "asset": name,
                "kind": asset.kind,
                "state": assets.status(name).state,
                "MB": str(asset.megabytes),
                "licence": asset.licence,
                "package": f"{asset.package}=={asset.version}",
                "source": asset.source,
                "what it is": asset.label,
            }
        )
    table(rows, numbers=["MB"])


def _as_dict(name: str) -> dict[str, Any]:
    asset, status = assets.ASSETS[name], assets.status(name)
    return {
        "name": name,
        "kind": asset.kind,
        "state": status.state,
        "megabytes": asset.megabytes,
        "licence": asset.licence,
        "package": asset.package,
        "version": asset.version,
        "source": asset.source,
        "what": asset.label,
        "folder": str(status.path),
    }


@app.command("fetch")
def fetch(
    names: list[str] = _NAMES,
    force: bool = typer.Option(False, "--force", help="Download even what is there and whole."),
) -> None:
    """Download assets and check them against their pinned SHA-256."""
    for name in names:
        assets.status(name)  # refuses an unknown name before anything is downloaded
    pairs([(name, str(assets.fetch(name, force=force))) for name in names])


@app.command("verify")
def verify(names: list[str] = _OPTIONAL_NAMES) -> None:
    """Check every file of the assets on this machine by size and SHA-256."""
    states = [assets.status(name, hashed=True) for name in names or assets.ASSETS]
    table(
        [{"asset": s.asset.name, "state": s.state, "folder": str(s.path), "problems": _problem_text(s)} for s in states]
    )
    wrong = [s for s in states if s.state == "damaged" or (names and s.state != "ready")]
    if wrong:
        listed = " ".join(s.asset.name for s in wrong)
        raise RunFailed("not every asset is whole", hint=f"type: steelyard assets fetch {listed}")


def _problem_text(status: assets.AssetStatus) -> str:
    more = f" and {len(status.problems) - 1} more" if len(status.problems) > 1 else ""
    return f"{status.problems[0]}{more}" if status.problems else ""
