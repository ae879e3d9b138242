"""Time every method on every question, interleaved, with a journal to resume from after an interruption.

`outputs.jsonl` has the completions, for reading and grading. A line is
`{temperature, seed, question_id, chat, method, text}`: `chat` has the messages of the prompt, `text` is the completion
without special tokens.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.chat import ChatTokenizer, chat_of
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import count_shared, is_looping
from drafter_trainer.decoding.rounds import Decoding, decode
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.errors import InputError, RefusedConversationError
from drafter_trainer.results import PLAIN
from drafter_trainer.targets import context_of

OUTPUTS = "outputs.jsonl"
OUTPUT_KEYS = ("temperature", "seed", "question_id", "chat")
_WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Setting:
    """The settings that all methods of a run share."""

    temperature: float
    seed: int
    max_new_tokens: int


def measure(
    target_model: PreTrainedModel,
    chat: ChatTokenizer,
    questions: Sequence[Question],
    methods: Sequence[Method],
    setting: Setting,
    journal: Path,
    repeats: int = 1,
) -> list[dict[str, Any]]:
    """Measure all methods under one setting.

    All methods decode a question before the next question begins, so that a change of the machine's speed affects all
    methods. The order of the methods rotates. A later turn of a conversation follows plain decoding's completions of
    the earlier turns: all methods get the same prompts.

    Args:
        journal (`Path`): Gets a line for each question that all methods have decoded. Questions in the journal are not
            decoded again. Several settings share one journal.
        repeats (`int`, *optional*, defaults to 1): Number of times that each method decodes each question, odd. All
            figures are those of the decoding with the median time.
    Returns:
        `list[dict]`, the setting's records in the journal: setting, question, chat, and each method's figures with the
        text of its completion.
    """
    for question in questions:  # fail before hours of measuring; the length of earlier completions is not known yet
        blank = _encode(chat, question, [(turn.prompt, "") for turn in question.earlier])
        _check_length(target_model, question, len(blank), (len(question.earlier) + 1) * setting.max_new_tokens)
    own = {"temperature": setting.temperature, "seed": setting.seed}
    records = [record for record in read_journal(journal) if own.items() <= record.items()]
    texts = {record["question_id"]: record["methods"][PLAIN]["text"] for record in records}
    work = [(number, question) for number, question in enumerate(questions) if question.question_id not in texts]
    if work:
        first = chat.encode_prompt(work[0][1].prompt)
        for method in methods:
            decode(target_model, first, method.draft_arguments, 0.0, 0, _WARM_UP_TOKENS)
    for number, question in tqdm(work, unit="question", desc=describe_sampling(**own)):
        earlier = [(turn.prompt, texts[turn.question_id]) for turn in question.earlier]
        prompt_ids = _encode(chat, question, earlier)
        _check_length(target_model, question, len(prompt_ids), setting.max_new_tokens)
        decodings: dict[str, list[Decoding]] = {method.name: [] for method in methods}
        for repeat in range(repeats):
            turn = (number + repeat) % len(methods)
            for method in (*methods[turn:], *methods[:turn]):
                decoding = decode(
                    target_model,
                    prompt_ids,
                    method.draft_arguments,
                    setting.temperature,
                    setting.seed,
                    setting.max_new_tokens,
                )
                decodings[method.name].append(decoding)
        figures = {name: _figures(chat, several) for name, several in decodings.items()}
        if setting.temperature == 0:
            plain = _median(decodings[PLAIN]).output_ids
            for name, several in decodings.items():
                output = _median(several).output_ids
                figures[name]["divergence"] = _divergence(target_model, prompt_ids, plain, output)
        prompt = {"question_id": question.question_id, "chat": chat_of(question.prompt, earlier)}
        record = own | prompt | {"methods": figures}
        append_record(journal, record)
        records.append(record)
        texts[question.question_id] = figures[PLAIN]["text"]
    return records


def _encode(chat: ChatTokenizer, question: Question, earlier: Sequence[tuple[str, str]]) -> list[int]:
    try:
        return chat.encode_prompt(question.prompt, earlier)
    except RefusedConversationError as error:
        raise InputError(f"question {question.question_id}: {error.reason}: leave it out") from error


def _check_length(target_model: PreTrainedModel, question: Question, length: int, new_tokens: int) -> None:
    context = context_of(target_model.config)
    if context is not None and length + new_tokens > context:
        raise InputError(
            f"question {question.question_id}: {length} tokens and {new_tokens} new tokens exceed the target's "
            f"context of {context}: leave it out, or reduce max_new_tokens"
        )


def _figures(chat: ChatTokenizer, decodings: list[Decoding]) -> dict[str, Any]:
    decoding = _median(decodings)
    text = chat.tokenizer.decode(decoding.output_ids, skip_special_tokens=True)
    figures = {
        "text": text,
        "tokens": len(decoding.output_ids),
        "characters": len(text),
        "retokenised": len(chat.tokenizer(text).input_ids) - 1,
        "seconds": decoding.seconds,
        "looping": is_looping(decoding.output_ids),
        "rounds": [asdict(round_) for round_ in decoding.rounds],
        "draft_seconds": decoding.draft_seconds,
        "verification_seconds": decoding.verification_seconds,
        "first_pass_seconds": decoding.first_pass_seconds,
    }
    return figures | ({"repeat_seconds": [repeat.seconds for repeat in decodings]} if len(decodings) > 1 else {})


def _median(decodings: list[Decoding]) -> Decoding:
    # By time per token: in half precision, draft lengths that follow the clock may change the output between repeats.
    return sorted(decodings, key=lambda repeat: repeat.seconds / len(repeat.output_ids))[len(decodings) // 2]


def _divergence(
    target_model: PreTrainedModel, prompt_ids: list[int], plain: list[int], other: list[int]
) -> dict[str, Any] | None:
    """Find the first token that differs from plain decoding, and the difference of the target's two best logits."""
    if plain == other:
        return None
    position = count_shared(plain, other)
    same = torch.tensor([prompt_ids + plain[:position]], device=target_model.device)
    with torch.inference_mode():
        logits = target_model(input_ids=same, use_cache=False).logits[0, -1].float()
    first, second = logits.topk(2).values.tolist()
    return {"position": position, "margin": first - second}


def read_journal(journal: Path) -> list[dict[str, Any]]:
    """Read the records of a journal, if there is one, and remove an incomplete last line."""
    if not journal.is_file():
        return []
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    os.truncate(journal, sum(map(len, whole)))
    return [json.loads(line) for line in whole]


def append_record(journal: Path, record: dict[str, Any]) -> None:
    """Append a record to a journal and wait until it is on disk."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_outputs(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the completions of the records that `measure` returns to `outputs.jsonl`."""
    lines = [
        {key: record[key] for key in OUTPUT_KEYS} | {"method": name, "text": method["text"]}
        for record in records
        for name, method in record["methods"].items()
    ]
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
