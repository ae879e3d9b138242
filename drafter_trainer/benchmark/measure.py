"""Time every method on every question, interleaved, with a journal from which an interrupted run goes on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.benchmark.journal import append_record, read_journal
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.chat import ChatTokenizer, chat_of
from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.metrics import count_shared, is_looping
from drafter_trainer.decoding.rounds import Decoding, decode
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.errors import InputError, RefusedConversationError
from drafter_trainer.results import PLAIN
from drafter_trainer.targets import context_of

_WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Setting:
    """What is equal for all methods of one run."""

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

    The methods take turns on each question, beginning with another one each time, so that a machine that drifts
    drifts for all of them. A later turn of a conversation follows plain decoding's own answers to the turns before
    it, whatever the method, so that all of them are asked the same.

    Args:
        journal (`Path`): Gains a line when a question has been asked of all methods; what stands in it is not asked
            again. Several settings share one.
        repeats (`int`, *optional*, defaults to 1): Each method answers each question so often, an odd number. The
            answer that took the median time is the one that counts, with all its figures.
    Returns:
        `list[dict]`, the setting's records in the journal: setting, question, the chat that was asked, and each
        method's figures with the text of its answer.
    """
    for question in questions:  # before hours of measuring; how long earlier answers are is not known yet
        blank = _encode(chat, question, [(turn.prompt, "") for turn in question.earlier])
        _check_length(target_model, question, len(blank), (len(question.earlier) + 1) * setting.max_new_tokens)
    own = {"temperature": setting.temperature, "seed": setting.seed}
    records = [record for record in read_journal(journal) if own.items() <= record.items()]
    answers = {record["question_id"]: record["methods"][PLAIN]["text"] for record in records}
    work = [(number, question) for number, question in enumerate(questions) if question.question_id not in answers]
    if work:
        first = chat.encode_prompt(work[0][1].prompt)
        for method in methods:
            decode(target_model, first, method.draft_arguments, 0.0, 0, _WARM_UP_TOKENS)
    name = describe_sampling(setting.temperature, setting.seed)
    for number, question in tqdm(work, unit="question", desc=name):
        earlier = [(turn.prompt, answers[turn.question_id]) for turn in question.earlier]
        prompt_ids = _encode(chat, question, earlier)
        _check_length(target_model, question, len(prompt_ids), setting.max_new_tokens)
        takes: dict[str, list[Decoding]] = {method.name: [] for method in methods}
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
                takes[method.name].append(decoding)
        record = own | {
            "question_id": question.question_id,
            "chat": chat_of(question.prompt, earlier),
            "methods": {
                method.name: _figures(chat.tokenizer, target_model, prompt_ids, takes, method.name, setting)
                for method in methods
            },
        }
        append_record(journal, record)
        records.append(record)
        answers[question.question_id] = record["methods"][PLAIN]["text"]
    return records


def _encode(chat: ChatTokenizer, question: Question, earlier: Sequence[tuple[str, str]]) -> list[int]:
    try:
        return chat.encode_prompt(question.prompt, earlier)
    except RefusedConversationError as error:
        raise InputError(f"question {question.question_id}: {error.reason}: leave it out") from error


def _figures(
    tokenizer: PreTrainedTokenizerBase,
    target_model: PreTrainedModel,
    prompt_ids: list[int],
    takes: dict[str, list[Decoding]],
    name: str,
    setting: Setting,
) -> dict[str, Any]:
    decoding, plain = _median(takes[name]), _median(takes[PLAIN])
    text = tokenizer.decode(decoding.output_ids, skip_special_tokens=True)
    figures = {
        "text": text,
        "tokens": len(decoding.output_ids),
        "characters": len(text),
        "retokenised": len(tokenizer(text).input_ids) - 1,
        "seconds": decoding.seconds,
        "looping": is_looping(decoding.output_ids),
        "rounds": [asdict(round_) for round_ in decoding.rounds],
        "draft_seconds": decoding.draft_seconds,
        "verification_seconds": decoding.verification_seconds,
        "first_pass_seconds": decoding.first_pass_seconds,
    }
    if len(takes[name]) > 1:
        figures["repeat_seconds"] = [take.seconds for take in takes[name]]
    if decoding.joules is not None:
        figures["joules"] = decoding.joules
    if setting.temperature == 0:
        figures["divergence"] = _divergence(target_model, prompt_ids, plain.output_ids, decoding.output_ids)
    return figures


def _median(takes: list[Decoding]) -> Decoding:
    # By the time of a token: in half precision, drafts that follow the clock may give each take another answer.
    return sorted(takes, key=lambda take: take.seconds / len(take.output_ids))[len(takes) // 2]


def _divergence(
    target_model: PreTrainedModel, prompt_ids: list[int], plain: list[int], other: list[int]
) -> dict[str, Any] | None:
    """Find where an output leaves plain decoding, and by how little the target preferred its own token there."""
    if plain == other:
        return None
    position = count_shared(plain, other)
    known = torch.tensor([prompt_ids + plain[:position]], device=target_model.device)
    with torch.inference_mode():
        logits = target_model(input_ids=known, use_cache=False).logits[0, -1].float()
    first, second = logits.topk(2).values.tolist()
    return {"position": position, "margin": first - second}


def _check_length(target_model: PreTrainedModel, question: Question, length: int, new_tokens: int) -> None:
    context = context_of(target_model.config)
    if context is not None and length + new_tokens > context:
        raise InputError(
            f"question {question.question_id}: {length} tokens and {new_tokens} new ones pass the target's "
            f"context of {context}: leave it out, or ask for fewer with max_new_tokens"
        )
