"""From sentences to the list of answers that the target is asked for."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from drafter_trainer.corpora import Sentence
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, translation_prompt
from drafter_trainer.targets import Target, encode_prompt

START_TOKEN = "start_token"  # the corpus that the target writes by itself


@dataclass(frozen=True)
class Prompt:
    """Hold a prompt as the target reads it, and where it came from."""

    prompt_ids: tuple[int, ...]
    source_id: str
    corpus: str


@dataclass(frozen=True)
class Request:
    """Hold one answer that the target is to give.

    Args:
        prompt_ids (`tuple[int, ...]`): The prompt as the target reads it, chat template included.
        temperature (`float`): 0.0 decodes greedily. Neither top-k nor top-p is ever applied.
        seed (`int`): Tells samples of one prompt apart.
        max_new_tokens (`int`): Length limit of the answer.
        source_id (`str`): Where the prompt came from.
        corpus (`str`): Name of the corpus.
        pair (`str`): Pair of languages.
        target (`str`): Hub id of the target.
        target_revision (`str`): Its revision.
    """

    prompt_ids: tuple[int, ...]
    temperature: float
    seed: int
    max_new_tokens: int
    source_id: str
    corpus: str
    pair: str
    target: str
    target_revision: str

    @property
    def key(self) -> str:
        """SHA-256 over everything that decides the answer: equal keys are the same work."""
        identity = {
            "target": self.target,
            "revision": self.target_revision,
            "prompt_ids": self.prompt_ids,
            "sampling": {"temperature": self.temperature, "top_k": 0, "top_p": 1.0},
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def translation_prompts(
    sentences: Iterable[Sentence],
    corpus: str,
    pair: Pair,
    tokenizer: PreTrainedTokenizerBase,
    decontaminator: Decontaminator,
    limit: int | None,
    drops: Counter[str],
) -> list[Prompt]:
    """Ask for the translation of sentences that no evaluation question holds, each once.

    Args:
        limit (`int`, *optional*): Stop after so many prompts.
        drops (`Counter[str]`): Gains what was left out, under "reason (language)".
    Raises:
        InputError: If no sentence is left.
    """
    prompts: dict[tuple[int, ...], Prompt] = {}
    for sentence in sentences:
        if limit is not None and len(prompts) == limit:
            break
        reason = decontaminator.reason(sentence.text)
        prompt_ids = tuple(encode_prompt(tokenizer, translation_prompt(pair, sentence.text)))
        if reason is None and prompt_ids in prompts:
            reason = "repeated prompt"
        if reason is not None:
            drops[f"{reason} ({pair.source.name})"] += 1
            continue
        prompts[prompt_ids] = Prompt(prompt_ids, sentence.source_id, corpus)
    if not prompts:
        raise InputError(
            f"corpus {corpus} gives no prompts for {pair} (left out: {dict(drops) or 'nothing'}): a file gives 2 % of "
            "its sentences to validation, so some hundred are needed"
        )
    return list(prompts.values())


def start_token_prompts(tokenizer: PreTrainedTokenizerBase, token: str | None, count: int | None) -> list[Prompt]:
    """Let the target write by itself: prompts of nothing but a start token.

    They differ in their source id alone; `build_requests` gives each a seed of its own.

    Args:
        token (`str`, *optional*): The start token; the tokenizer's bos if left out.
        count (`int`): How many texts.
    Raises:
        InputError: If there is no such token, or no count.
    """
    start_id = tokenizer.bos_token_id if token is None else tokenizer.get_vocab().get(token)
    if start_id is None:
        raise InputError(f"the tokenizer has no start token {token or ''}: name one of its tokens with --start_token")
    if count is None:
        raise InputError("corpus start_token has no end: give --max_samples and --max_validation_samples")
    return [Prompt((start_id,), f"{START_TOKEN}/{number}", START_TOKEN) for number in range(count)]


def build_requests(
    prompts: Sequence[Prompt],
    temperatures: Sequence[float],
    samples: int,
    seed: int,
    max_new_tokens: int,
    pair: Pair,
    target: Target,
) -> list[Request]:
    """Cross prompts with temperatures and samples; T = 0 is asked once, whatever the number of samples."""
    requests: dict[str, Request] = {}
    seen: Counter[tuple[int, ...]] = Counter()
    for prompt in prompts:
        repetition = seen[prompt.prompt_ids]
        seen[prompt.prompt_ids] += 1
        for temperature, sample in itertools.product(temperatures, range(samples)):
            request = Request(
                prompt_ids=prompt.prompt_ids,
                temperature=temperature,
                seed=0 if temperature == 0 else seed + repetition * samples + sample,
                max_new_tokens=max_new_tokens,
                source_id=prompt.source_id,
                corpus=prompt.corpus,
                pair=str(pair),
                target=target.name,
                target_revision=target.revision,
            )
            requests.setdefault(request.key, request)
    return list(requests.values())


def cut_batches(requests: Iterable[Request], batch_size: int) -> list[list[Request]]:
    """Cut requests into batches of one temperature and of prompts of similar length.

    The cut depends on nothing but the requests, so that a resumed run forms the batches of the first one.
    """
    ordered = sorted(requests, key=lambda request: (request.temperature, len(request.prompt_ids), request.key))
    return [
        batch
        for _, group in itertools.groupby(ordered, key=lambda request: request.temperature)
        for batch in _chunks(list(group), batch_size)
    ]


def _chunks(sequence: list[Request], size: int) -> list[list[Request]]:
    return [sequence[start : start + size] for start in range(0, len(sequence), size)]
