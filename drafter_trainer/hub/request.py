"""What a prompt asks for, as far as it can be read off the prompt: the router's question."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.inspection import language_identifier
from drafter_trainer.errors import InputError
from drafter_trainer.languages import LANGUAGES, Language

# Takes time by its length, and a sentence tells enough.
_IDENTIFIED_CHARACTERS = 200
# Chosen on the bundled sample: nearly every sentence's own language has more, and no other known language has as much
# (benchmarks/router_choice.py counts both).
_LEAST_PROBABILITY = 0.25

_TRANSLATION = re.compile(r"([^:\n]*\btranslate\b[^:\n]*)[:\n](.+)", re.DOTALL | re.IGNORECASE)
_PROBE = "what the user asks"


@dataclass(frozen=True)
class PromptTask:
    """The task that a prompt states; `None` stands for what it does not state."""

    source: Language | None
    answer: Language | None
    is_translation: bool


def read_task(message: str, known: Mapping[str, Language] = LANGUAGES) -> PromptTask:
    """Read what the user asks.

    A translation is one whose first line, or what stands before its first colon, says so in English; the languages
    that it names are those that `languages.translation_prompt` writes. The text itself says which language it is in,
    and what the user calls it counts where the text does not tell. Of anything else it is not known which language the
    answer will be in: it is taken to be the prompt's, unless the prompt says `in German`.
    """
    by_name = {language.name.casefold(): language for language in known.values()}
    name = rf"(?<!\w)({'|'.join(map(re.escape, sorted(by_name, key=len, reverse=True)))})(?!\w)"
    asked = _TRANSLATION.match(message)
    if asked is None:
        source, named = identify_language(message, known), re.search(rf"\bin {name}", message, re.IGNORECASE)
        return PromptTask(source, by_name[named[1].casefold()] if named else source, is_translation=False)
    instruction, text = asked.groups()
    into = re.match(rf"(.*?)\b(?:in)?to\b.*?{name}", instruction, re.IGNORECASE)
    answer = by_name[into[2].casefold()] if into else None
    source = identify_language(text, known)
    if source in (None, answer):
        called = re.search(name, into[1] if into else instruction, re.IGNORECASE)
        source = by_name[called[1].casefold()] if called else None
    return PromptTask(source, answer, is_translation=True)


def identify_language(text: str, known: Mapping[str, Language] = LANGUAGES) -> Language | None:
    """Identify which of the known languages a text is in.

    All languages that the identifier knows take part: where only the known ones did, Ukrainian would be Russian beyond
    doubt as soon as it is not among them.

    Returns:
        `Language`, or `None` where it is another one, or the text is too short or too mixed.
    """
    ranked = language_identifier().rank(text[:_IDENTIFIED_CHARACTERS])
    code, probability = next(((code, probability) for code, probability in ranked if code in known), ("", 0.0))
    return known[code] if probability >= _LEAST_PROBABILITY else None


class PromptReader:
    """A reader of the user's last message from a prompt's ids, without the chat template's own text.

    What stands around a message is learned from the template itself, by rendering two chats with it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The target's. Without a chat template that shows messages all of a
            prompt is the message.
        languages (`Iterable[Language]`, *optional*): Languages that are recognized besides those of `LANGUAGES`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, languages: Iterable[Language] = ()) -> None:
        self._tokenizer = tokenizer
        self._known = LANGUAGES | {language.code: language for language in languages}
        self._before = self._after = ""
        if tokenizer.chat_template is not None:
            with contextlib.suppress(InputError):
                self._learn(ChatTokenizer(tokenizer))
        identify_language(_PROBE)  # the identifier takes a second to load: not within the first call of generate

    def _learn(self, chat: ChatTokenizer) -> None:
        # Through the ids, as a prompt comes: some tokenizers give other white space back.
        first, answered = (
            self._tokenizer.decode(chat.encode_prompt(_PROBE, earlier)) for earlier in ((), [("a", "b")])
        )
        before, _, after = first.partition(_PROBE)
        # The first message may have a system's words before it, the second what ends an answer.
        ends = zip(reversed(before), reversed(answered.partition(_PROBE)[0]))
        alike = [one for one, _ in itertools.takewhile(lambda both: both[0] == both[1], ends)]
        self._before = "".join(reversed(alike)).strip()
        self._after = after.strip()

    def read(self, prompt_ids: Sequence[int]) -> PromptTask:
        """Read what the user asks last."""
        return read_task(self.last_message(prompt_ids), self._known)

    def last_message(self, prompt_ids: Sequence[int]) -> str:
        """Return the text of the user's last message, or all of a prompt that the template did not write."""
        if self._before:
            _, found, message = self._tokenizer.decode(prompt_ids).rpartition(self._before)
            if found:
                return (message.partition(self._after)[0] if self._after else message).strip()
        return self._tokenizer.decode(prompt_ids, skip_special_tokens=True).strip()
