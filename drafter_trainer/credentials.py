"""Detection of credentials and of this machine's paths in texts and files, which must not be published or shown."""

import os
import re
from pathlib import Path

import huggingface_hub

_HIDDEN = "***"
_NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD")  # endings of the names of environment variables with credentials
_SEARCHED = 1 << 24  # bytes that are searched; the rest of a longer file is tensors
_SHORTEST = 8  # characters; a shorter value may occur in ordinary text by chance
# A word of an address, in UTF-8; a looser pattern matches the bytes of tensors by chance.
_WORD = rb"(?:[^\x00-\x20/:@\"'\x7f-\xff]|[\xc2-\xf4][\x80-\xbf]{1,3})+"
# Tokens of the Hub and of GitHub, keys of OpenAI and AWS, a password in an address.
_LOOKS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bsk-[A-Za-z0-9_-]{32,}|\bAKIA[A-Z0-9]{16}\b"
    rb"|(?<=://)%(word)b:%(word)b(?=@)" % {b"word": _WORD}
)
# A path such as "/home/me/x" that does not begin within a word, an address or another path.
_PATH = re.compile(r"""(?:(?<![\w./~<-])|(?<=file://))/([^/\s"'`|<>]+)/[^\s"'`|<>]*""")
_HOMES = ("home", "Users", "root", "mnt", "scratch")  # also those of another machine


def redact(text: str) -> str:
    """Replace credentials, and text that looks like a credential, by asterisks."""
    for value in _values().values():
        text = text.replace(value, _HIDDEN)
    return _LOOKS.sub(_HIDDEN.encode(), text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def find_credential(path: Path) -> str | None:
    """Return the kind of credential that a file contains, or `None`."""
    with path.open("rb") as file:
        content = file.read(_SEARCHED)
    for name, value in _values().items():
        if value.encode("utf-8", "surrogateescape") in content:
            return f"the value of {name}"
    return "text that looks like a token, a key or a password" if _LOOKS.search(content) else None


def find_path(path: Path) -> str | None:
    """Return the first absolute path of this machine, or of any home folder, in a text file, or `None`."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = (match for match in _PATH.finditer(text) if match[1] in _HOMES or Path("/", match[1]).is_dir())
    return next((match[0] for match in found), None)


def _values() -> dict[str, str]:
    """Return the credentials that this process knows, by their sources."""
    known = {name: value for name, value in os.environ.items() if name.upper().endswith(_NAMES)}
    token = huggingface_hub.get_token()
    if token is not None:  # which may come from a file
        known["the Hub's token"] = token
    return {name: value.strip() for name, value in known.items() if len(value.strip()) >= _SHORTEST}
