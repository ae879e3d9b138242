"""Conversion of the conversations in datasets to the messages that chat templates take."""

import json
from dataclasses import dataclass
from typing import Any

from drafter_trainer.corpora.files import BadRowError, check_values

_ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "tool": "tool",
    "observation": "tool",
} | dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant")  # ShareGPT's names of models


@dataclass(frozen=True)
class Conversation:
    """A conversation.

    Args:
        messages (`list[dict]`): Messages with `role` and `content`, and optionally `reasoning_content`, `tool_calls`,
            `tool_call_id` and `name`.
        tools (`list[dict]`, *optional*): JSON schemas of the tools that the assistant may call.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return all text of the conversation, one part per line."""
        parts: list[str | None] = []
        for message in self.messages:
            parts += message["content"], message.get("reasoning_content")
            parts += (json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls", ()))
        parts += (json.dumps(tool, ensure_ascii=False) for tool in self.tools or ())
        return "\n".join(filter(None, parts))


def conversation_of_row(location: str, row: dict[str, Any]) -> Conversation:
    """Read a row of `messages` or `conversations`, with optional `system` and `tools`."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadRowError(location, "no document", ': expected "text", "messages" or "conversations"')
    messages = [_message(location, turn) for turn in turns]
    system, tools = row.get("system") or "", _parse(row.get("tools")) or None
    if not isinstance(system, str):
        raise BadRowError(location, "system is not a text", f": got {system!r:.80}")
    if tools is not None and not (isinstance(tools, list) and all(_name(tool) for tool in tools)):
        raise BadRowError(location, "tools are not a list of JSON schemas with names", f": got {tools!r:.80}")
    if system.strip():
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        elif system.strip() not in messages[0]["content"]:
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
    check_values(location, [messages, tools])  # parts of these were JSON texts inside the JSON row
    return Conversation(messages, [_wrap(tool) for tool in tools] if tools else None)


def _message(location: str, turn: Any) -> dict[str, Any]:
    # A row of a table has the keys of all rows; missing values are None.
    values = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else {}
    speaker = values.get("role", values.get("from"))
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    content, calls = values.get("content", values.get("value")), values.get("tool_calls") or []
    if isinstance(content, list):  # parts
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    elif content is None and calls:
        content = ""
    if role is None or not isinstance(content, str):
        raise BadRowError(location, "a message needs a known role and a text", f", got {turn!r:.80}")
    if not isinstance(calls, list) or not all(_name(call) for call in calls):
        raise BadRowError(location, "tool_calls need function names", f", got {calls!r:.80}")
    message: dict[str, Any] = {"role": role, "content": content}
    reasoning = values.get("reasoning_content", values.get("reasoning", values.get("thinking")))
    if isinstance(reasoning, str) and reasoning.strip():
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return message | {key: values[key] for key in ("tool_call_id", "name") if isinstance(values.get(key), str)}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments as an object, as templates expect; APIs send arguments as JSON text."""
    wrapped = _wrap(call)
    arguments = _parse(wrapped["function"].get("arguments"))
    if isinstance(arguments, dict):
        arguments = {key: value for key, value in arguments.items() if value is not None}
    return wrapped | {"function": wrapped["function"] | {"arguments": {} if arguments is None else arguments}}


def _wrap(value: dict[str, Any]) -> dict[str, Any]:
    return value if isinstance(value.get("function"), dict) else {"type": "function", "function": value}


def _name(value: Any) -> str | None:
    """Return the name of a tool or of a called function, with or without the wrapper `function`."""
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def _parse(value: Any) -> Any:
    """Parse a value that some datasets store as JSON text; other text is returned unchanged."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
