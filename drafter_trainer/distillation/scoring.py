"""Scoring: log-probabilities of existing completions, from one forward pass of the target in this process."""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.distillation.requests import TOP_K
from drafter_trainer.distillation.store import RowStore, TopK, count_unscored

_LOGITS = 1 << 28  # of a forward pass: a GiB in fp32

Text = tuple[Sequence[int], Sequence[int]]  # ids of prompt and completion


class Scorer:
    """A scorer of completions with the target."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id

    def score_store(self, store: RowStore, process: tuple[int, int] = (0, 1)) -> None:
        """Add log-probabilities to the rows of a store that have none.

        Args:
            process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank of this process and number of
                processes; shards are assigned round-robin.
        """
        rank, processes = process
        unscored = [shard for shard in store.shards() if count_unscored(shard)]  # the same in all processes
        disable = rank != 0 or not unscored
        for shard in tqdm(unscored[rank::processes], unit="shard", desc="scoring", disable=disable):
            store.add_logprobs(shard, self.score)

    def score(self, texts: Sequence[Text]) -> list[TopK]:
        """Return the top 20 ids and log-probabilities at each position of completions, at temperature 1."""
        scores: dict[int, TopK] = {}
        for batch in self._batches(texts):
            scores |= zip(batch, self._score([texts[number] for number in batch]))
        return [scores[number] for number in range(len(texts))]

    def _batches(self, texts: Sequence[Text]) -> Iterator[list[int]]:
        """Yield batches of text indices, shortest texts first, whose logits fit into memory."""
        positions = _LOGITS // self.model.get_output_embeddings().weight.shape[0]
        batch: list[int] = []
        for number in sorted(range(len(texts)), key=lambda number: (len(texts[number][1]), len(texts[number][0]))):
            if batch and (len(batch) + 1) * len(texts[number][1]) > positions:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score(self, batch: Sequence[Text]) -> list[TopK]:
        texts = [[*prompt, *completion] for prompt, completion in batch]
        longest = max(map(len, texts))
        device = self.model.device
        padding = torch.tensor([longest - len(text) for text in texts], device=device)
        positions = torch.arange(longest, device=device)[None] - padding[:, None]
        logits = self.model(
            input_ids=torch.tensor([[self.pad_id] * (longest - len(text)) + text for text in texts], device=device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions.clamp(min=0),
            use_cache=False,
            logits_to_keep=max(len(completion) for _, completion in batch) + 1,
        ).logits
        scores = []
        for row, (_, completion) in zip(logits, batch):
            own = row[-len(completion) - 1 : -1].float()  # the logits at a position predict the next token
            values, ids = own.topk(TOP_K, dim=-1)
            scores.append((ids.cpu().numpy(), (values - own.logsumexp(dim=-1, keepdim=True)).cpu().numpy()))
        return scores
