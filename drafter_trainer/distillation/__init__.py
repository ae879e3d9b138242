"""Self-distillation: the target's own answers become training rows."""

from collections.abc import Iterable

from tqdm.auto import tqdm

from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.filters import reason_to_drop
from drafter_trainer.distillation.requests import Request, cut_batches
from drafter_trainer.distillation.store import RowStore


def distill(
    requests: Iterable[Request],
    engine: TransformersEngine,
    store: RowStore,
    batch_size: int,
    language: str,
    special_ids: Iterable[int],
    process: tuple[int, int] = (0, 1),
) -> None:
    """Ask the target for what the store does not hold yet; each batch becomes one shard.

    Args:
        requests (`Iterable[Request]`): All of them, also those already answered: they fix the batches.
        engine (`TransformersEngine`): Answers a batch.
        store (`RowStore`): Gains the rows.
        batch_size (`int`): Requests answered at once.
        language (`str`): Language of the answers, under which drops are counted.
        special_ids (`Iterable[int]`): Ids that show no text.
        process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and their number; each
            takes every so-manieth batch.
    Raises:
        DamagedStoreError: If an earlier shard is damaged.
        OSError: If the disk is full; what was stored before stays.
    """
    rank, processes = process
    special = frozenset(special_ids)
    done = store.keys()
    batches = cut_batches(requests, batch_size)[rank::processes]
    total = sum(map(len, batches))
    tokens = 0
    with tqdm(total=total, unit="row", desc="distilling", disable=rank != 0) as bar:
        for batch in batches:
            if any(request.key not in done for request in batch):
                # Also those that are stored: what is sampled for a request depends on the batch that it stands in.
                answered = [row for row in zip(batch, engine.answer(batch)) if row[0].key not in done]
                reasons = [reason_to_drop(answer, special) for _, answer in answered]
                store.write([row for row, reason in zip(answered, reasons) if reason is None], engine.name)
                store.write_dropped(
                    [(request, reason) for (request, _), reason in zip(answered, reasons) if reason], language
                )
                tokens += sum(len(answer.response_ids) for _, answer in answered)
                bar.set_postfix_str(f"{tokens / (bar.format_dict['elapsed'] or 1):.0f} tokens/s", refresh=False)
            bar.update(len(batch))
