"""Errors that the caller can correct."""


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line."""
    return " ".join(str(error).split())


class InputError(ValueError):
    """An error that the caller can correct.

    The message is one line: the given value, the expected one, and what to do. The command line prints it without a
    traceback.
    """


def check_positive(**numbers: int | None) -> None:
    """Raise an error for numbers below 1; `None` is ignored."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")


class IncompatibleTokenizerError(InputError):
    """The tokenizers of a drafter and its target differ in content."""


class RefusedConversationError(InputError):
    """A conversation that the chat template rejects or leaves out; dropped conversations are counted by `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a conversation cannot be rendered: {reason}")
        self.reason = reason


class DamagedStoreError(InputError):
    """A file of an earlier step is truncated or altered."""
