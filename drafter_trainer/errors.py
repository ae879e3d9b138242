"""The errors that a caller can mend."""


def one_line(error: BaseException) -> str:
    """Write an error of a library on one line, for the message of one of ours."""
    return " ".join(str(error).split())


class InputError(ValueError):
    """An error that the caller can mend.

    The message is one line that says what was given, what was expected and what to do. The command line prints it
    without a traceback; callers of the library catch it as a `ValueError`.
    """


def check_positive(**numbers: int | None) -> None:
    """Refuse numbers below 1; `None` is no number."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")


class IncompatibleTokenizerError(InputError):
    """A drafter's tokenizer that differs in content from its target's."""


class RefusedConversationError(InputError):
    """A conversation that the chat template refuses, or does not show.

    Args:
        reason (`str`): The reason, under which dropped conversations are counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"a conversation cannot be rendered: {reason}")
        self.reason = reason


class DamagedStoreError(InputError):
    """A file of an earlier step that is truncated or altered."""
