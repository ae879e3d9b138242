"""Names of what lies on the Hub, and why it cannot be read."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from drafter_trainer.errors import one_line

_TOKEN = "set HF_TOKEN (or run hf auth login)"


def split_revision(place: str) -> tuple[str, str | None]:
    """Split `HUB_ID@REVISION`; what exists here as a file or folder is no Hub id."""
    if Path(place).exists():
        return place, None
    name, _, revision = place.partition("@")
    return name, revision or None


def explain_refusal(repo: str, error: BaseException) -> str:
    """Put an error of the Hub's client, or of a library that hides one behind its own, into one line.

    Returns:
        `str`, with advice where a token or an access is missing, otherwise the error's own text.
    """
    has_token = huggingface_hub.get_token() is not None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            access = f"{repo} is gated: ask for access at {ENDPOINT}/{repo}"
            return f"{access} with the account of your token" if has_token else f"{access} and {_TOKEN}"
        if isinstance(cause, RepositoryNotFoundError):
            if has_token:
                return f"there is no {repo} that your token may read: check the name, or ask its owner for access"
            return f"there is no public {repo}: check the name or, if it is private, {_TOKEN}"
        cause = cause.__cause__ or cause.__context__
    return one_line(error)
