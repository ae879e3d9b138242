"""The task and the languages of a prompt, which the router reads from its text."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.inspection import language_identifier
from drafter_trainer.errors import InputError
from drafter_trainer.languages import LANGUAGES, Language

_IDENTIFIED_CHARACTERS = 200  # of a text: more characters take longer, and a sentence is enough
# Chosen on the bundled sample: nearly all sentences reach this score in their own language, and none reaches it in
# another known language (counted by benchmarks/router_choice.py).
_LEAST_PROBABILITY = 0.25

_TRANSLATION = re.compile(r"([^:\n]*\btranslate\b[^:\n]*)[:\n](.+)", re.DOTALL | re.IGNORECASE)
_PROBE = "what the user asks"


@dataclass(frozen=True)
class PromptTask:
    """The task of a prompt. A language is `None` if the prompt does not show it."""

    source: Language | None
    answer: Language | None
    is_translation: bool


def read_task(message: str, known: Mapping[str, Language] = LANGUAGES) -> PromptTask:
    """Read the task of a user's message.

    A message asks for a translation if its first line, or the text before its first colon, does so in English. The
    source language is identified from the text itself; the name in the instruction counts only if the text is too
    short. The completion of any other message is expected in the language of the message, unless the message asks for
    another language (`in German`).
    """
    by_name = {language.name.casefold(): language for language in known.values()}
    name = rf"(?<!\w)({'|'.join(map(re.escape, sorted(by_name, key=len, reverse=True)))})(?!\w)"
    translation = _TRANSLATION.match(message)
    if translation is None:
        source, named = identify_language(message, known), re.search(rf"\bin {name}", message, re.IGNORECASE)
        return PromptTask(source, by_name[named[1].casefold()] if named else source, is_translation=False)
    instruction, text = translation.groups()
    into = re.match(rf"(.*?)\b(?:in)?to\b.*?{name}", instruction, re.IGNORECASE)
    answer = by_name[into[2].casefold()] if into else None
    source = identify_language(text, known)
    if source in (None, answer):
        named = re.search(name, into[1] if into else instruction, re.IGNORECASE)
        source = by_name[named[1].casefold()] if named else None
    return PromptTask(source, answer, is_translation=True)


def identify_language(text: str, known: Mapping[str, Language] = LANGUAGES) -> Language | None:
    """Identify the language of a text.

    The identifier ranks all of its languages. If it ranked only `known`, Ukrainian would be identified as Russian.

    Returns:
        `Language`, or `None` if the language is not in `known`, or the text is too short or too mixed.
    """
    ranked = language_identifier().rank(text[:_IDENTIFIED_CHARACTERS])
    code, probability = next(((code, probability) for code, probability in ranked if code in known), ("", 0.0))
    return known[code] if probability >= _LEAST_PROBABILITY else None


class PromptReader:
    """A reader of the user's last message from the token ids of a prompt.

    It renders two short chats to find the text that the chat template writes around a message.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The target's tokenizer. Without a usable chat template, the whole prompt
            is the message.
        languages (`Iterable[Language]`, *optional*): Languages to recognize in addition to `LANGUAGES`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, languages: Iterable[Language] = ()) -> None:
        self._tokenizer = tokenizer
        self._known = LANGUAGES | {language.code: language for language in languages}
        self._before = self._after = ""
        if tokenizer.chat_template is not None:
            with contextlib.suppress(InputError):
                self._read_template(ChatTokenizer(tokenizer))
        identify_language(
            _PROBE
        )  # the identifier loads for a second, which the first call of generate should not take

    def _read_template(self, chat: ChatTokenizer) -> None:
        # Decoded from ids, as a prompt will be: some tokenizers change white space.
        first, second = (self._tokenizer.decode(chat.encode_prompt(_PROBE, turns)) for turns in ((), [("a", "b")]))
        before, _, after = first.partition(_PROBE)
        # A system message may precede the first user message, and the end of a response the second one.
        earlier = second.partition(_PROBE)[0]
        self._before = next(before[start:] for start in range(len(before) + 1) if earlier.endswith(before[start:]))
        self._before, self._after = self._before.strip(), after.strip()

    def read(self, prompt_ids: Sequence[int]) -> PromptTask:
        """Read the task of the user's last message."""
        return read_task(self.last_message(prompt_ids), self._known)

    def last_message(self, prompt_ids: Sequence[int]) -> str:
        """Return the text of the user's last message, or the whole prompt if the chat template did not write it."""
        if self._before:
            _, found, message = self._tokenizer.decode(prompt_ids).rpartition(self._before)
            if found:
                return (message.partition(self._after)[0] if self._after else message).strip()
        return self._tokenizer.decode(prompt_ids, skip_special_tokens=True).strip()
