"""Credentials and paths of this machine: known by value or by look, so that none is published, recorded or shown."""

import os
import re
from pathlib import Path

import huggingface_hub

_HIDDEN = "***"
_NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD")  # what the name of an environment variable with a credential ends in
_SEARCHED = 1 << 24  # bytes of a file that are searched; what is longer holds tensors, which are no text
_SHORTEST = 8  # characters; a shorter value stands in ordinary text by chance
# A word of an address, in UTF-8: tensors hold any byte, and a looser one is found in them by chance.
_WORD = rb"(?:[^\x00-\x20/:@\"'\x7f-\xff]|[\xc2-\xf4][\x80-\xbf]{1,3})+"
# Tokens of the Hub and of GitHub, keys of OpenAI and AWS, a password in an address.
_LOOKS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bsk-[A-Za-z0-9_-]{32,}|\bAKIA[A-Z0-9]{16}\b"
    rb"|(?<=://)%(word)b:%(word)b(?=@)" % {b"word": _WORD}
)
# Not within a word, an address or another path: from "/home/me/x" to what ends a word or a quotation.
_PATH = re.compile(r"""(?:(?<![\w./~<-])|(?<=file://))/([^/\s"'`|<>]+)/[^\s"'`|<>]*""")
_HOMES = ("home", "Users", "root", "mnt", "scratch")  # also of another machine, on which a step was done


def redact(text: str) -> str:
    """Replace whatever is a credential, or looks like one, by asterisks."""
    for value in _values().values():
        text = text.replace(value, _HIDDEN)
    return _LOOKS.sub(_HIDDEN.encode(), text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def find_credential(path: Path) -> str | None:
    """Search a file for credentials.

    Returns:
        `str`, what was found, without the credential itself, or `None`.
    """
    with path.open("rb") as file:
        content = file.read(_SEARCHED)
    for name, value in _values().items():
        if value.encode("utf-8", "surrogateescape") in content:
            return f"the value of {name}"
    return "what looks like a token, a key or a password" if _LOOKS.search(content) else None


def find_path(path: Path) -> str | None:
    """Search a text file for an absolute path of this machine, or of anybody's home.

    Returns:
        `str`, the first path, or `None`: what only looks like one, such as `/v1/completions`, begins with no folder.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    found = (match for match in _PATH.finditer(text) if match[1] in _HOMES or Path("/", match[1]).is_dir())
    return next((match[0] for match in found), None)


def _values() -> dict[str, str]:
    """Return the credentials that this process knows, by where they come from."""
    known = {name: value for name, value in os.environ.items() if name.upper().endswith(_NAMES)}
    token = huggingface_hub.get_token()
    if token is not None:  # the one that is used, which may come from a file
        known["the Hub's token"] = token
    return {name: value.strip() for name, value in known.items() if len(value.strip()) >= _SHORTEST}
