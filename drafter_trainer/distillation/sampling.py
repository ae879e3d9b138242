"""Choice of the next tokens of a batch, with the top k log-probabilities, for very large vocabularies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

_BLOCK = 64  # ids
_ROWS = 8  # at once, so that their logits in fp32 fit into a processor's cache


def choose_tokens(
    logits: torch.Tensor, temperatures: Sequence[float], noise: Sequence[float], k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the next token of each row, with the top k log-probabilities at temperature 1.

    Top k, softmax and cumulative sum over the whole vocabulary read the logits many times, which takes as long as the
    layers of a small target. Here the vocabulary is split into blocks. The k largest logits are in the k blocks with
    the largest maxima, and inverse sampling first finds the block by the sums of the blocks. Both methods are exact.

    Args:
        logits (`torch.Tensor` of shape `(rows, vocabulary)`): Logits, in any floating dtype.
        temperatures (`Sequence[float]`): Temperature of each row; 0.0 chooses the most likely token.
        noise (`Sequence[float]`): A uniform random number in [0, 1) for each row, for inverse sampling.
    Returns:
        `tuple` of three tensors: the chosen ids of shape `(rows,)`, and the ids and the log-probabilities in nats of
        the k most likely tokens, both of shape `(rows, k)`, most likely first.
    """
    parts = []
    for start in range(0, len(logits), _ROWS):
        rows = slice(start, start + _ROWS)
        parts.append(_choose(logits[rows], temperatures[rows], noise[rows], k))
    tokens, ids, logprobs = zip(*parts)
    return torch.cat(tokens), torch.cat(ids), torch.cat(logprobs)


def _choose(
    logits: torch.Tensor, temperatures: Sequence[float], noise: Sequence[float], k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Always a copy; the last block is padded with minus infinity.
    blocks = F.pad(logits.float(), (0, -logits.shape[1] % _BLOCK), value=float("-inf")).unflatten(1, (-1, _BLOCK))
    chosen = blocks.amax(dim=-1).topk(min(k, blocks.shape[1]), dim=-1, sorted=False).indices
    values, places = blocks.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1).topk(k, dim=-1)
    ids = chosen.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK
    weights = blocks.sub_(values[:, :1, None]).exp_()  # at temperature 1; the most likely token's is 1
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


def _invert(weights: torch.Tensor, sums: torch.Tensor, noise: float) -> torch.Tensor:
    """Return the id at which the cumulative weights of shape `(blocks, 64)` exceed `noise` of their sum."""
    cumulative = sums.double().cumsum(dim=0)
    place = noise * cumulative[-1:]
    # Rounding must not lead past the last block and the last id with a weight above 0.
    block = torch.searchsorted(cumulative, place, right=True)
    block = torch.minimum(block, sums.nonzero()[-1])
    inside = weights[block[0]].double().cumsum(dim=0)
    before = cumulative[block] - sums[block].double()
    last = weights[block[0]].nonzero()[-1]
    return (block * _BLOCK + torch.minimum(torch.searchsorted(inside, place - before, right=True), last))[0]
