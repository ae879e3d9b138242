"""Conversations as token ids: the only module that applies a target's chat template."""

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
# Arguments of `apply_chat_template`, and the variable that it sets itself.
_RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}
# Errors of a template on a conversation that it was not written for.
_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_LONGEST_REASON = 100  # characters
_LONGEST_END = 20  # characters of a word, for languages without spaces


def chat_of(prompt: str, earlier: Sequence[tuple[str, str]] = ()) -> list[dict[str, str]]:
    """Return the messages of a chat that ends with a prompt; `earlier` has prompts and responses."""
    messages = []
    for question, response in earlier:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return [*messages, {"role": "user", "content": prompt}]


class ChatTokenizer:
    """A tokenizer with a chat template that has been tested: the rendered text contains the user's message.

    Templates of some multimodal targets accept content only in parts, `[{"type": "text", "text": …}]`. The accepted
    form is tested once, and every conversation is rendered in this form.

    Args:
        sanitize_control_tokens (`bool`, *optional*, defaults to `False`): Whether special tokens that are written out
            in a message or a text, such as `<|im_end|>`, are plain text. By default they are special tokens, as in
            `apply_chat_template`.
        source (`str`, *optional*): The file or name of the template, for error messages.
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
        template = str(tokenizer.chat_template)  # several templates by name are a dictionary
        for name in self._variables:
            if name in _RESERVED:
                raise InputError(f"chat_template_kwargs: {name} is set already: leave it out")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise InputError(f"chat_template_kwargs: {source} takes no {name}: leave it out, or correct it")
        self._try_template()

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        unshown: Counter[str] | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation.

        The template writes its own start token, so the tokenizer adds none.

        Args:
            messages (`Sequence[Mapping]`): With `role`, `content`, and possibly `reasoning_content` and `tool_calls`.
            unshown (`Counter[str]`, *optional*): Counts the kinds of content that the template leaves out.
        """
        text = self._render(messages, tools, add_generation_prompt)
        missing = _missing(messages, tools, text)
        if "user" in missing:
            raise RefusedConversationError("the chat template does not show the user's text")
        if unshown is not None:
            unshown.update(f"{kind} (not shown by the chat template)" for kind in missing)
        if not self._sanitize:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        given = {"tools": tools, "add_generation_prompt": add_generation_prompt}
        return self._apply(messages, **given, return_dict=True, sanitize_control_tokens=True)["input_ids"]

    def encode_prompt(self, prompt: str, earlier: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Return the token ids of a prompt, up to the start of the completion."""
        return self.encode(chat_of(prompt, earlier), add_generation_prompt=True)

    def encode_text(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the token ids of a text that is not a conversation."""
        options = {"split_special_tokens": True} if self._sanitize else {}
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens, **options)

    def _apply(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        chat = [dict(message) for message in messages]
        for message in chat if self._parts else ():
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
        return self.tokenizer.apply_chat_template(chat, **options, **self._variables)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        try:
            text = self._apply(messages, tools=tools, add_generation_prompt=add_generation_prompt, tokenize=False)
            text.encode()
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{self._source}, line {error.lineno}: not Jinja ({error.message})") from error
        except UnicodeEncodeError as error:
            raise RefusedConversationError("it contains half of a surrogate pair") from error
        except _REFUSALS as error:
            message = one_line(error) or type(error).__name__
            raise RefusedConversationError(f"the chat template refuses it: {message[:_LONGEST_REASON]}") from error
        return text

    def _try_template(self) -> None:
        prompt, reason = chat_of(_PROBE), "the text is left out"
        for chat in (prompt, [{"role": "system", "content": "Answer."}, *prompt]):  # some need a system message
            for self._parts in (False, True):
                try:
                    if _PROBE in self._render(chat):
                        return
                except RefusedConversationError as error:
                    reason = error.reason
        raise InputError(
            f"{self._source} does not show the user's text, neither as text nor in parts ({reason}): give another "
            "chat_template"
        )


def _missing(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, rendered: str
) -> dict[str, None]:
    """Return the kinds of content that a rendered text does not show: roles, tools, reasoning and tool calls."""
    expected = [("tools", tool["function"]["name"]) for tool in tools or ()]
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        expected += ((message["role"], text) for text in texts)
        expected.append(("reasoning_content", message.get("reasoning_content") or ""))
        expected += (("tool_calls", call["function"]["name"]) for call in message.get("tool_calls", ()))
    return dict.fromkeys(kind for kind, text in expected if not _is_shown(text.strip(), rendered))


def _is_shown(text: str, rendered: str) -> bool:
    # The first or last word is enough: few-shot templates rewrite the prompt, others remove reasoning from responses,
    # and some write the result of a tool as JSON.
    words = text.split() or [""]
    ends = (words[0][:_LONGEST_END], words[-1][-_LONGEST_END:])
    return any(end in rendered or json.dumps(end, ensure_ascii=False)[1:-1] in rendered for end in ends)
