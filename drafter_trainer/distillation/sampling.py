"""The next tokens of a batch and their most likely alternatives, over vocabularies of hundreds of thousands of ids."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

_BLOCK = 64  # ids
_ROWS = 8  # in fp32 at once: what a processor's cache holds


class TokenChooser:
    """Chooses the next token of each row, with the top k log-probabilities at temperature 1.

    A full-width top k, softmax and cumulative sum each pass over the logits several times and take as long as a small
    target's layers. Here the vocabulary is cut into blocks: the k largest logits lie in the k blocks with the largest
    maxima, and a draw by inversion finds its block by the blocks' sums first. Both are exact.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(
        self, logits: torch.Tensor, temperatures: Sequence[float], noise: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose a token a row.

        Args:
            logits (`torch.Tensor` of shape `(rows, vocabulary)`): In any floating dtype.
            temperatures (`Sequence[float]`): Of each row; at 0.0 its likeliest token is chosen.
            noise (`Sequence[float]`): Uniform in [0, 1), of each row; a draw is its distribution inverted there.
        Returns:
            `tuple` of the chosen ids of shape `(rows,)`, and of the ids of the k most likely tokens and their
            log-probabilities in nats, both of shape `(rows, k)`, most likely first.
        """
        parts = []
        for start in range(0, len(logits), _ROWS):
            rows = slice(start, start + _ROWS)
            parts.append(self._choose(logits[rows], temperatures[rows], noise[rows]))
        tokens, ids, logprobs = zip(*parts)
        return torch.cat(tokens), torch.cat(ids), torch.cat(logprobs)

    def _choose(
        self, logits: torch.Tensor, temperatures: Sequence[float], noise: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # A copy in any case; the last block is filled up with minus infinity.
        blocks = F.pad(logits.float(), (0, -logits.shape[1] % _BLOCK), value=float("-inf")).unflatten(1, (-1, _BLOCK))
        values, ids = self._top(blocks)
        weights = blocks.sub_(values[:, :1, None]).exp_()  # of temperature 1, the likeliest token's is 1
        sums = weights.sum(dim=-1)
        logprobs = values - values[:, :1] - sums.sum(dim=-1, keepdim=True).log()
        tokens = ids[:, 0].clone()
        for row, temperature in enumerate(temperatures):
            if not temperature:
                continue
            if temperature != 1.0:
                torch.pow(weights[row], 1 / temperature, out=weights[row])
                sums[row] = weights[row].sum(dim=-1)
            tokens[row] = _invert(weights[row], sums[row], noise[row])
        return tokens, ids, logprobs

    def _top(self, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = blocks.amax(dim=-1).topk(min(self.k, blocks.shape[1]), dim=-1, sorted=False).indices
        candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
        values, places = candidates.topk(self.k, dim=-1)
        return values, chosen.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK


def _invert(weights: torch.Tensor, sums: torch.Tensor, noise: float) -> torch.Tensor:
    """Return the id at which the cumulative weights of shape `(blocks, 64)` pass `noise` of their sum."""
    cumulative = sums.double().cumsum(dim=0)
    place = noise * cumulative[-1:]
    # Not past the last block or id of any weight, whatever was rounded.
    block = torch.searchsorted(cumulative, place, right=True)
    block = torch.minimum(block, sums.nonzero()[-1])
    inside = weights[block[0]].double().cumsum(dim=0)
    before = cumulative[block] - sums[block].double()
    last = weights[block[0]].nonzero()[-1]
    return (block * _BLOCK + torch.minimum(torch.searchsorted(inside, place - before, right=True), last))[0]
