"""Self-distillation: the target's own answers become training rows."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from tqdm.auto import tqdm

from drafter_trainer.distillation.checks import check_completion
from drafter_trainer.distillation.engines import Engine
from drafter_trainer.distillation.filters import reason_to_drop
from drafter_trainer.distillation.requests import Request, Requests
from drafter_trainer.distillation.store import Completion, Failure, RowStore
from drafter_trainer.errors import InputError

_TOO_LONG = "prompt that fills the target's context"


def distill(
    requests: Requests,
    engine: Engine,
    store: RowStore,
    batch_size: int,
    language: str,
    special_ids: Iterable[int],
    process: tuple[int, int] = (0, 1),
    drop_looping: bool = False,
    end_ids: Iterable[int] = (),
) -> None:
    """Ask the target for what the store does not hold yet; each group of answers becomes one shard.

    Args:
        requests (`Requests`): All of them, also those already answered: they fix the batches. What has a limit of 0
            is dropped.
        language (`str`): Language of the answers, under which drops are counted.
        process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and their number;
            batches are assigned round-robin.
        end_ids (`Iterable[int]`, *optional*): Ids that end an answer wherever they stand; not all engines know them.
    Raises:
        InputError: If nothing more can be answered, the first requests are all refused for one reason, or an answer
            is not one of the target (see `check_completion`).
    """
    rank, processes = process
    special, ends = frozenset(special_ids), frozenset(end_ids)
    done = store.keys()
    rows = dropped = tokens = 0
    with tqdm(total=len(requests) // processes, unit="row", desc="distilling", disable=rank != 0) as bar:

        def asked() -> Iterator[list[Request]]:
            for batch in requests.batches(batch_size, process):
                missing = [request for request in batch if request.key not in done]
                too_long = [request for request in missing if not request.max_new_tokens]
                store.write_dropped([(request, _TOO_LONG) for request in too_long], language)
                missing = [request for request in missing if request.max_new_tokens]
                if rank == 0 and len(missing) < len(batch):
                    bar.initial += len(batch) - len(missing)  # the time left is that of the others
                    bar.update(len(batch) - len(missing))
                if missing:
                    yield missing

        for group, answers in engine.complete(asked()):
            answered = [(request, _ended(answer, ends)) for request, answer in zip(group, answers)]
            if not (done or rows or dropped):
                _refuse_to_drop_all(answered)
            _check(answered, engine.name)
            reasons = [reason_to_drop(answer, special, drop_looping) for _, answer in answered]
            kept = [row for row, reason in zip(answered, reasons) if reason is None]
            store.write(kept, engine.name)
            store.write_dropped(
                [(request, reason) for (request, _), reason in zip(answered, reasons) if reason], language
            )
            rows, dropped = rows + len(kept), dropped + len(answered) - len(kept)
            tokens += sum(len(answer.completion_ids) for _, answer in answered if isinstance(answer, Completion))
            speed = tokens / (bar.format_dict["elapsed"] or 1)
            bar.set_postfix_str(f"{speed:.0f} tokens/s, {rows / max(1, rows + dropped):.0%} kept", refresh=False)
            bar.update(len(answered))


def _ended(answer: Completion | Failure, end_ids: Collection[int]) -> Completion | Failure:
    """Leave out what follows the first token that ends an answer."""
    if not end_ids or isinstance(answer, Failure):
        return answer
    length = next((n for n, token in enumerate(answer.completion_ids, 1) if token in end_ids), None)
    if length is None:
        return answer
    ids, logprobs = (part if part is None else part[:length] for part in (answer.topk_ids, answer.topk_logprobs))
    kept = answer.completion_ids[:length]
    return replace(answer, completion_ids=kept, topk_ids=ids, topk_logprobs=logprobs, finish_reason="stop")


def _check(answered: Sequence[tuple[Request, Completion | Failure]], engine: str) -> None:
    for request, answer in answered:
        if isinstance(answer, Completion):
            try:
                check_completion(request, answer)
            except InputError as error:
                raise InputError(f"engine {engine} gives answers that are not the target's: {error}") from error


def _refuse_to_drop_all(answered: Sequence[tuple[Request, Completion | Failure]]) -> None:
    # What is refused from the very first is refused for what the user set, and would never be asked again.
    refusals = [answer for _, answer in answered if isinstance(answer, Failure)]
    if len(refusals) == len(answered) > 0 and len({refusal.reason for refusal in refusals}) == 1:
        said = f": {refusals[0].message}" if refusals[0].message else ""
        raise InputError(f"the first {len(refusals)} requests were all {refusals[0].reason}{said}")
