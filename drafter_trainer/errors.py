"""The errors that a user can mend."""


class InputError(ValueError):
    """Raise when what the user gave cannot be used.

    The message is one line that says what was got, what was expected and what to do. Recipes print it without a
    traceback; whoever uses the package as a library catches it as a `ValueError`.
    """


class IncompatibleTokenizerError(InputError):
    """Raise when a drafter's tokenizer differs in content from its target's."""


class RefusedConversationError(InputError):
    """Raise when a chat template refuses a conversation, or does not show it.

    Args:
        reason (`str`): Why; conversations that are left out are counted under it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"a conversation cannot be rendered: {reason}")
        self.reason = reason


class DamagedStoreError(InputError):
    """Raise when a file that an earlier step wrote is truncated or altered."""
