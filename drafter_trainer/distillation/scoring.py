"""Log-probabilities for answers that came without: one pass of the local target over prompt and answer."""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.distillation.store import TOP_K, RowStore, TopK, count_unscored

_LOGITS = 1 << 28  # of one pass: a GiB in fp32


class Scorer:
    """Score what the target has said elsewhere."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id

    def score_store(self, store: RowStore, process: tuple[int, int] = (0, 1)) -> None:
        """Give log-probabilities to the rows of a store that have none; answers stay as they are.

        Args:
            process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and their number;
                shards are assigned round-robin.
        """
        rank, processes = process
        bare = [shard for shard in store.shards() if count_unscored(shard)]  # the same in all processes
        for shard in tqdm(bare[rank::processes], unit="shard", desc="scoring", disable=rank != 0 or not bare):
            store.add_logprobs(
                shard, lambda rows: self.score([(row["prompt_ids"], row["response_ids"]) for row in rows])
            )

    def score(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TopK]:
        """Say what the target thinks of answers: the top 20 at each of their positions.

        They are of the raw distribution at temperature 1, as `TransformersEngine` records them.
        """
        scores: dict[int, TopK] = {}
        shortest_first = sorted(range(len(texts)), key=lambda number: (len(texts[number][1]), len(texts[number][0])))
        for numbers in self._passes(shortest_first, texts):
            scores |= zip(numbers, self._score([texts[number] for number in numbers]))
        return [scores[number] for number in range(len(texts))]

    def _passes(
        self, numbers: Sequence[int], texts: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[list[int]]:
        """Cut texts, shortest first, into passes whose logits fit."""
        positions = _LOGITS // self.model.get_output_embeddings().weight.shape[0]
        batch: list[int] = []
        for number in numbers:
            if batch and (len(batch) + 1) * len(texts[number][1]) > positions:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score(self, answered: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TopK]:
        texts = [[*prompt, *answer] for prompt, answer in answered]
        longest = max(map(len, texts))
        kept = max(len(answer) for _, answer in answered) + 1
        device = self.model.device
        padding = torch.tensor([longest - len(text) for text in texts], device=device)
        positions = torch.arange(longest, device=device)[None] - padding[:, None]
        logits = self.model(
            input_ids=torch.tensor([[self.pad_id] * (longest - len(text)) + text for text in texts], device=device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions.clamp(min=0),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        scores = []
        for row, (_, answer) in zip(logits, answered):
            # The logits at a position are of the token behind it; those of the last token answer nothing.
            said = row[-len(answer) - 1 : -1].float()
            values, ids = said.topk(TOP_K, dim=-1)
            logprobs = values - said.logsumexp(dim=-1, keepdim=True)
            scores.append((ids.cpu().numpy(), logprobs.cpu().numpy()))
        return scores
