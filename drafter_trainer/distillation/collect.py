"""The distillation loop, which fills a store with checked and filtered completions, and a survey of the rows."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from drafter_trainer.decoding.metrics import is_looping
from drafter_trainer.distillation.engines import Engine
from drafter_trainer.distillation.requests import TOP_K, Completion, Failure, Request, Requests
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.extras import is_installed, require

_LARGEST_SUM = 1.01  # of the probabilities at a position, with the rounding errors of servers
_TIE = 0.01  # nats; an engine may choose one of two equally likely tokens and list the other token first
_IDENTIFIED = 5000  # completions whose language is identified, at about a millisecond each


def collect_completions(
    requests: Requests,
    engine: Engine,
    store: RowStore,
    batch_size: int,
    language: str,
    special_ids: Iterable[int],
    process: tuple[int, int] = (0, 1),
    drop_looping: bool = False,
    end_ids: Collection[int] = (),
) -> None:
    """Complete the requests that the store lacks; each group of completions becomes one shard.

    Args:
        requests (`Requests`): All requests. Those with a length limit of 0 are dropped.
        language (`str`): Language of the completions, under which dropped requests are counted.
        process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and number of processes.
        end_ids (`Collection[int]`, *optional*): Ids that end a completion; not all engines know them.
    Raises:
        InputError: If the engine cannot continue, the whole first group of requests fails for the same reason, or
            `check_completion` rejects a completion.
    """
    rank, processes = process
    special_ids = frozenset(special_ids)
    done = store.keys()
    rows = dropped = tokens = 0
    with tqdm(total=len(requests) // processes, unit="row", desc="distilling", disable=rank != 0) as bar:

        def missing_requests() -> Iterator[list[Request]]:
            for batch in requests.batches(batch_size, process):
                missing = [request for request in batch if request.key not in done]
                too_long = [request for request in missing if not request.max_new_tokens]
                store.write_dropped([(each, "prompt that fills the target's context") for each in too_long], language)
                missing = [request for request in missing if request.max_new_tokens]
                if rank == 0:
                    bar.initial += len(batch) - len(missing)  # excluded from the estimate of the remaining time
                    bar.update(len(batch) - len(missing))
                if missing:
                    yield missing

        for group, completions in engine.complete(missing_requests()):
            completions = [_end_at(completion, end_ids) for completion in completions]
            if not (done or rows or dropped):
                _raise_if_all_failed(completions)
            kept, drops = [], []
            for request, completion in zip(group, completions):
                try:
                    if isinstance(completion, Completion):
                        check_completion(request, completion)
                except InputError as error:
                    raise InputError(
                        f"engine {engine.name} does not return the target's completions: {error}"
                    ) from error
                if reason := reason_to_drop(completion, special_ids, drop_looping):
                    drops.append((request, reason))
                    continue
                kept.append((request, completion))
                tokens += len(completion.completion_ids)
            store.write(kept, engine.name)
            store.write_dropped(drops, language)
            rows, dropped = rows + len(kept), dropped + len(drops)
            speed = tokens / (bar.format_dict["elapsed"] or 1)
            bar.set_postfix_str(f"{speed:.0f} tokens/s, {rows / max(1, rows + dropped):.0%} kept", refresh=False)
            bar.update(len(kept) + len(drops))


def check_completion(request: Request, completion: Completion) -> None:
    """Raise an error if a completion or its log-probabilities cannot be from the target.

    Otherwise a wrongly configured engine, or a wrongly parsed reply, would silently fill a store with wrong rows.
    """
    count = len(completion.completion_ids)
    if count > request.max_new_tokens and not completion.retokenized:
        raise InputError(f"a completion has {count} tokens, but the limit is {request.max_new_tokens}")
    if completion.topk_ids is None or completion.topk_logprobs is None:
        return
    if not completion.topk_ids.shape == completion.topk_logprobs.shape == (count, TOP_K):
        shape = completion.topk_logprobs.shape
        raise InputError(f"expected log-probabilities of shape {(count, TOP_K)} for {count} tokens, got {shape}")
    logprobs = completion.topk_logprobs.astype(np.float64)
    with np.errstate(over="ignore"):
        sums = np.exp(logprobs).sum(axis=-1)
    if not (sums <= _LARGEST_SUM).all():  # also rejects NaN
        raise InputError(
            f"the {TOP_K} largest probabilities of a position sum to {sums.max():.3g}, expected at most 1: they may "
            "be logits instead of log-probabilities"
        )
    if request.temperature == 0:
        chosen = completion.topk_ids == np.array(completion.completion_ids)[:, None]
        own = np.where(chosen, logprobs, -np.inf).max(axis=-1)
        if (lower := own < logprobs.max(axis=-1) - _TIE).any():
            raise InputError(
                f"{lower.sum()} of the {count} tokens of a greedy completion are not the most likely tokens of their "
                "positions: the log-probabilities belong to other tokens, or the engine modifies the target's logits"
            )


def reason_to_drop(
    completion: Completion | Failure, special_ids: Collection[int], drop_looping: bool = False
) -> str | None:
    """Return why a completion is dropped, or `None`. Truncated completions are kept.

    Args:
        drop_looping (`bool`, *optional*, defaults to `False`): Drop completions that end in a repetition loop. By
            default they are kept: the target also loops at inference, and a drafter predicts loops easily.
    """
    if isinstance(completion, Failure):
        return completion.reason
    if all(token in special_ids for token in completion.completion_ids):
        return "empty completion"
    return "repetition loop" if drop_looping and is_looping(completion.completion_ids) else None


def survey(store: RowStore, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Count unusual rows of a store.

    Returns:
        `dict` with `looping` (completions that end in a loop), `duplicates` (rows that repeat an earlier prompt and
        completion), `retokenized`, and, if py3langid is installed, `languages`: the ISO 639 codes of up to 5000
        completions, most frequent first. No row is dropped for its language, which is often wrong for a few words.
    """
    counts = Counter(looping=0, duplicates=0, retokenized=0)
    languages: Counter[str] = Counter()
    seen: set[int] = set()
    langid = require("py3langid", "languages") if is_installed("py3langid") else None
    total = sum(table.num_rows for table in store.tables(["key"]))
    for table in store.tables(["key", "prompt_ids", "response_ids", "retokenized"]):
        for row in table.to_pylist():
            counts["looping"] += is_looping(row["response_ids"])
            counts["retokenized"] += row["retokenized"]
            content = hash((tuple(row["prompt_ids"]), tuple(row["response_ids"])))
            counts["duplicates"] += content in seen
            seen.add(content)
            # Keys are hashes: those below a threshold are a random sample that is the same in every run.
            if langid and int(row["key"][:8], 16) * total < _IDENTIFIED << 32:
                text = tokenizer.decode(row["response_ids"], skip_special_tokens=True)
                languages[langid.classify(text)[0]] += 1
    return {**counts} | ({"languages": dict(languages.most_common())} if langid else {})


def _end_at(completion: Completion | Failure, end_ids: Collection[int]) -> Completion | Failure:
    """Truncate a completion after its first end id."""
    ids = completion.completion_ids if isinstance(completion, Completion) else ()
    length = next((number for number, token in enumerate(ids, 1) if token in end_ids), None)
    if length is None:
        return completion
    topk = (each if each is None else each[:length] for each in (completion.topk_ids, completion.topk_logprobs))
    return Completion(ids[:length], *topk, "stop", completion.retokenized)


def _raise_if_all_failed(completions: Sequence[Completion | Failure]) -> None:
    # If the whole first group fails, the settings are wrong. Otherwise these requests would be dropped for good.
    failures = [each for each in completions if isinstance(each, Failure)]
    if len(failures) == len(completions) > 0 and len({failure.reason for failure in failures}) == 1:
        message = f": {failures[0].message}" if failures[0].message else ""
        raise InputError(f"the first {len(failures)} requests were all {failures[0].reason}{message}")
