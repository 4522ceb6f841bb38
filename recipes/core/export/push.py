"""The upload of a model to the Hugging Face hub: what stands in its way is said in one line, before or after."""

from pathlib import Path
from typing import Any

from recipes.core.errors import RunFailed, UserError
from recipes.core.storage.model_files import first_line


def check_can_push(name: str) -> None:
    """Refuse an upload that cannot work: a name that the hub does not allow, no token, a process that is offline.

    Raises:
        UserError: as said.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import validate_repo_id

    where = f"--push {name}"
    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise UserError("is no name that the hub allows", where, "type --push OWNER/NAME") from error
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE keeps the hub out of reach", where, "unset it, or export with --to FOLDER")
    if not huggingface_hub.get_token():
        raise UserError("there is no token for the hub", where, "type `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, title: str) -> str:
    """Upload a folder as a model of the hub, which is made private if it is not there yet.

    Args:
        folder: Holds the model and its card.
        name: OWNER/NAME, or NAME of the token's owner.
        title: Of the commit.

    Returns:
        Its address.

    Raises:
        RunFailed: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api: Any = HfApi()
    try:
        repo = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=str(folder), commit_message=title)
    except Exception as error:  # of the network, the hub and its client
        hint = f"the model lies in {folder}; type the same command again to upload it"
        raise RunFailed(f"the upload failed: {first_line(error)}", f"--push {name}", hint) from error
    return str(repo)
