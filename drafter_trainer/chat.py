"""Conversations as token ids: the one place that renders them through a target's chat template."""

import inspect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from drafter_trainer.errors import InputError, RefusedConversationError, one_line

_PROBE = "what the user asks"
# Names of `apply_chat_template`'s own arguments, and of what it hands to every template.
_RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}
# What templates raise on a conversation that they were not written for, besides their own refusals.
_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_LONGEST_REASON = 100  # characters
_END = 20  # characters of a word at most, for languages that write without spaces


def chat_of(prompt: str, earlier: Sequence[tuple[str, str]] = ()) -> list[dict[str, str]]:
    """Write what a user asks as the messages of a chat."""
    messages = []
    for asked, answered in earlier:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": prompt}]


class ChatTokenizer:
    """A tokenizer whose chat template has been tried: the template shows what a user asks.

    Templates of multimodal targets show content alone that comes in parts, `[{"type": "text", "text": …}]`. Whether
    one does is found out once, and every conversation is then rendered so.

    Args:
        sanitize_control_tokens (`bool`, *optional*, defaults to `False`): Whether special tokens that are written out
            in a message or a text, such as `<|im_end|>`, are plain text. By default they are the tokens themselves, as
            in `apply_chat_template`.
        source (`str`, *optional*): The template's file, or what else names it in messages.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        source: str = "the chat template",
    ) -> None:
        self.tokenizer = tokenizer
        self._variables = dict(chat_template_kwargs or {})
        self._sanitize = sanitize_control_tokens
        self._source = source
        self._parts = False
        self._check_variables()
        self._try_template()

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        unshown: Counter[str] | None = None,
    ) -> list[int]:
        """Turn a conversation into token ids.

        The template writes its own start token, so none is added by the tokenizer.

        Args:
            messages (`Sequence[Mapping]`): With `role`, `content`, and where there are some `reasoning_content` and
                `tool_calls`.
            unshown (`Counter[str]`, *optional*): Gains the kinds of content that the template leaves out.
        """
        text = self._render(messages, tools, add_generation_prompt)
        missing = _missing(messages, tools, text)
        if "user" in missing:
            raise RefusedConversationError("the chat template does not show what the user says")
        if unshown is not None:
            unshown.update(f"{kind} (not shown by the chat template)" for kind in missing)
        if not self._sanitize:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._apply(messages, tools, add_generation_prompt, return_dict=True, sanitize_control_tokens=True)[
            "input_ids"
        ]

    def encode_prompt(self, prompt: str, earlier: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Turn what a user asks into token ids, up to where the answer begins."""
        return self.encode(chat_of(prompt, earlier), add_generation_prompt=True)

    def encode_text(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Turn text that is no conversation into token ids."""
        how = {"split_special_tokens": True} if self._sanitize else {}
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens, **how)

    def _apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        **how: Any,
    ) -> Any:
        chat = [dict(message) for message in messages]
        if self._parts:
            for message in chat:
                if isinstance(message["content"], str):
                    message["content"] = [{"type": "text", "text": message["content"]}]
        return self.tokenizer.apply_chat_template(
            chat, tools=tools, add_generation_prompt=add_generation_prompt, **how, **self._variables
        )

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        try:
            text = self._apply(messages, tools, add_generation_prompt, tokenize=False)
            text.encode()
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{self._source}, line {error.lineno}: not Jinja ({error.message})") from error
        except UnicodeEncodeError as error:
            raise RefusedConversationError("half of a surrogate pair stands in it") from error
        except _REFUSALS as error:
            said = one_line(error) or type(error).__name__
            raise RefusedConversationError(f"the chat template refuses it: {said[:_LONGEST_REASON]}") from error
        return text

    def _check_variables(self) -> None:
        template = str(self.tokenizer.chat_template)  # several by name are a dictionary of texts
        for name in self._variables:
            if name in _RESERVED:
                raise InputError(f"chat_template_kwargs: {name} is set already: leave it out")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise InputError(f"chat_template_kwargs: {self._source} takes no {name}: leave it out, or mend it")

    def _try_template(self) -> None:
        asked, reason = chat_of(_PROBE), "the text is left out"
        for chat in (asked, [{"role": "system", "content": "Answer."}, *asked]):  # some want a system's words first
            for self._parts in (False, True):
                try:
                    if _PROBE in self._render(chat):
                        return
                except RefusedConversationError as error:
                    reason = error.reason
        raise InputError(
            f"{self._source} does not show what the user asks, neither as a text nor as parts of one ({reason}): give "
            "another as chat_template"
        )


def _missing(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, rendered: str
) -> dict[str, None]:
    """Find the kinds of content that a rendered text does not show: roles, and what else messages hold."""
    expected = [("tools", tool["function"]["name"]) for tool in tools or ()]
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        expected += ((message["role"], text) for text in texts)
        expected.append(("reasoning_content", message.get("reasoning_content") or ""))
        expected += (("tool_calls", call["function"]["name"]) for call in message.get("tool_calls", ()))
    return dict.fromkeys(kind for kind, text in expected if not _is_shown(text.strip(), rendered))


def _is_shown(text: str, rendered: str) -> bool:
    # Its first or last word is enough: few-shot templates rewrite what is asked, others cut thoughts out of answers.
    # Some write what a tool returned as JSON.
    words = text.split() or [""]
    ends = (words[0][:_END], words[-1][-_END:])
    return any(end in rendered or json.dumps(end, ensure_ascii=False)[1:-1] in rendered for end in ends)
