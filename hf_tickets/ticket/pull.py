"""Pulling a ticket from the Hub: the files it consists of, all of one commit, through the Hub's cache."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_tickets.errors import TicketFileError
from hf_tickets.ticket.blobs import is_blob
from hf_tickets.ticket.config import CONFIG_FILE, TicketConfig
from hf_tickets.ticket.hub_errors import hub_errors
from hf_tickets.ticket.ladder import LADDER_FILE
from hf_tickets.ticket.theta import THETA_FILE

_ATTEMPTS = 2


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return a folder of the Hub's cache that holds a ticket, downloading what is missing.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag such as "sparsity-0.70", or commit (default: main).
        subfolder: Folder inside the repository.
        token: Token, or whether to use the stored one (default: where one is stored).
        cache_dir: Cache (default: the Hub's).
        local_files_only: Do not ask the Hub, take what the cache has.

    Raises:
        HubError: It cannot be had; the message says why, and what to do.
        TicketFileError: The config is damaged, or a file arrives damaged time and again.
    """

    def download(name: str, revision: str | None) -> Path:
        for _ in range(_ATTEMPTS):
            file = hf_hub_download(
                repo_id,
                name,
                subfolder=subfolder or None,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
            # The client compares sizes alone, and would keep a damaged file in its cache for ever. A cache without
            # links does not know.
            blob = Path(file).resolve()
            if is_blob(blob, blob.name) is not False:
                return Path(file)
            _discard(Path(file))
        raise TicketFileError(f"{name} of {repo_id} arrived damaged and was thrown away; try again")

    with hub_errors(repo_id, revision, token):
        folder = download(CONFIG_FILE, revision).parent
        # The others from the very commit of the first: main may move between two downloads.
        commit = folder.parents[len(Path(subfolder).parts) - 1].name if subfolder else folder.name
        download(LADDER_FILE, commit)
        config = TicketConfig.load(folder)
        if config.theta_digest is not None:
            download(THETA_FILE, commit)
        if config.base_model is not None:
            _check_name(config.base_model)
    return folder


def _discard(file: Path) -> None:
    file.resolve().unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _check_name(base_model: str) -> None:
    """Refuse a base model that would be read from this machine: only a ticket of one's own may name a folder."""
    try:
        validate_repo_id(base_model)
    except HFValidationError:
        raise TicketFileError(f"the ticket names {base_model!r:.100} as its base model, which is no Hub id") from None
