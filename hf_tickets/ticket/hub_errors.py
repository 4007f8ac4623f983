"""What the Hub's client raises, as one line with cause and remedy."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_tickets.errors import HubError

# The client changed its HTTP library from one version to the next; its own error derives from that library's.
_CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind.__module__.startswith("httpx")),
    ConnectionError,
    TimeoutError,
)
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)  # what answers that are not whole lead to
_LOG_IN = "log in with `hf auth login`"


@contextmanager
def hub_errors(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> Iterator[None]:
    """Turn the errors of Hub calls inside the block into `HubError`.

    Args:
        repo_id: Repository that is read or written.
        revision: Revision that is asked for.
        token: As for the calls; it is used to list the revisions that there are.
    """
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is neither a folder nor a Hub id: {_line(error)}") from None
    except LocalTokenNotFoundError:
        raise HubError(f"{repo_id} needs a token: {_LOG_IN}") from None
    except OfflineModeIsEnabled:
        raise HubError(f"{repo_id}: the Hub is switched off by HF_HUB_OFFLINE=1; unset it") from None
    except LocalEntryNotFoundError as error:
        raise HubError(_not_in_cache(repo_id, error)) from None
    except GatedRepoError:
        raise HubError(f"{repo_id} is gated: accept its terms on its page on the Hub, and {_LOG_IN}") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{repo_id} is not on the Hub, or is private: check the name, or {_LOG_IN} as someone who may see it"
        ) from None
    except RevisionNotFoundError:
        known = _revisions(repo_id, token)
        raise HubError(f"{repo_id} has no revision {revision!r}; {known}") from None
    except EntryNotFoundError as error:
        raise HubError(f"{repo_id} is no ticket: {_missing(error)}") from None
    except HfHubHTTPError as error:
        raise HubError(f"{repo_id}: {_status(error)}") from None
    except _CONNECTION_ERRORS as error:
        raise HubError(f"{repo_id}: {_cause(error)}") from None
    except RuntimeError as error:
        if not isinstance(error.__cause__, (*_CONNECTION_ERRORS, *_UNREADABLE)):
            raise
        raise HubError(f"{repo_id}: a file could not be uploaded: {_cause(error.__cause__)}") from None
    except _UNREADABLE as error:
        raise HubError(f"{repo_id}: {_cause(error)}") from None
    except ValueError as error:
        if not isinstance(error.__cause__, HfHubHTTPError):
            raise
        raise HubError(f"{repo_id}: the Hub refuses the card: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        raise HubError(f"{repo_id}: a file arrived incomplete and was thrown away; try again") from None


@contextmanager
def loading_errors(source: str, revision: str | None = None, token: str | bool | None = None) -> Iterator[None]:
    """Turn what transformers raises when it loads a model inside the block into `HubError`.

    Args:
        source: Folder or Hub id of the model.
        revision: As for `hub_errors`.
        token: As for `hub_errors`.
    """
    with hub_errors(source, revision, token):
        try:
            yield
        except (OSError, ValueError) as error:
            for cause in (error, error.__cause__):
                if isinstance(cause, HfHubHTTPError):
                    raise cause from None  # transformers' own words leave out the remedy
            raise HubError(f"the model {source} cannot be loaded: {error!s:.600}") from error


def _missing(error: EntryNotFoundError) -> str:
    """Name the file that is not there: the last part of the address that was asked for."""
    found = re.search(r"/resolve/[^/\s]+/([^\s?]+?)\.?(?:\s|$)", str(error))
    return f"it has no {found.group(1)}" if found else _line(error)


def _cause(error: BaseException | None) -> str:
    if isinstance(error, HfHubHTTPError):
        return _status(error)
    if isinstance(error, _UNREADABLE):
        return "the Hub's answer cannot be read; try again"
    return f"the connection to the Hub was lost ({_line(error)}); try again"


def _status(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return f"the Hub does not know who you are (401): {_LOG_IN}"
    if status == 403:
        return f"your token may not do this (403): {_LOG_IN} with a token that may write here"
    if status == 409:
        return "somebody else changed the repository at the same time (409); try again"
    if status == 429:
        after = error.response.headers.get("Retry-After")
        return f"the Hub asks to slow down (429); try again {f'in {after} seconds' if after else 'in some minutes'}"
    if status >= 500:
        return f"the Hub has trouble ({status}); try again later"
    return f"the Hub refused ({status}): {_line(getattr(error, 'server_message', None) or error)}"


def _not_in_cache(repo_id: str, error: LocalEntryNotFoundError) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, HfHubHTTPError):
        return f"{repo_id}: {_status(cause)}"
    if isinstance(cause, _CONNECTION_ERRORS) and not isinstance(cause, OfflineModeIsEnabled):
        where = f"{repo_id} is neither a folder here nor in the cache"
        return f"{where}, and the Hub cannot be reached ({_line(cause)}); try again"
    return f"{repo_id} is not in the cache, or not all of it: download it once with the Hub within reach"


def _revisions(repo_id: str, token: str | bool | None) -> str:
    try:
        refs = HfApi().list_repo_refs(repo_id, token=token)
    except _CONNECTION_ERRORS:
        return "its page on the Hub lists those it has"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"it has {', '.join(names)}"


def _line(error: object) -> str:
    """Return the first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
