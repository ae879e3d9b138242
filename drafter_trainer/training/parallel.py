"""Mask tokens, from which a network learns to draft several tokens in one forward pass.

Source: An et al., "PARD: Accelerating LLM Inference with Low-Cost Parallel Draft Model Adaptation", arXiv 2504.18583.
"""

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import IGNORED

_UNUSED = ("unused", "reserved")  # in the names of special tokens that stand for nothing


def choose_mask_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """Choose the id of the mask token: one that no text holds.

    Args:
        vocabulary (`int`): Rows of the drafter's embeddings.
    """
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id
    if len(tokenizer) < vocabulary:  # embeddings are padded
        return len(tokenizer)
    for token, entry in sorted(tokenizer.get_added_vocab().items(), key=lambda pair: pair[1]):
        if any(word in token for word in _UNUSED):
            return entry
    raise InputError(
        "the tokenizer has no mask token, no unused token and no padded id, one of which parallel drafting needs: "
        "leave parallel_tokens out"
    )


def add_masks(batch: dict[str, torch.Tensor], tokens: int, mask_id: int, keep: float = 0.7) -> dict[str, torch.Tensor]:
    """Add mask tokens behind the rows of a batch, each of which predicts a token further ahead.

    The position before a supervised token predicts it. Behind the same position stand masks 1 to `tokens - 1`; mask j
    predicts the token j further on. It attends to the text up to that position and to the masks before it, as it will
    when drafting. Of all first masks a share `keep` stays, of the second ones `keep` of those, and so on: later tokens
    are reached less often, and a row does not become `tokens` times as long.

    Args:
        batch (`dict`): As `SelfDistilledCollator` makes it, of shapes `(batch, length, ...)`.
        tokens (`int`): Number of tokens that are drafted in one forward pass, 2 or more.
        mask_id (`int`): Id of the mask token.
        keep (`float`, *optional*, defaults to `0.7`): Share of the masks that stays at each further token.
    Returns:
        `dict` of the same columns with masks appended, a Boolean `attention_mask` of shape
        `(batch, 1, length, length)`, and `position_ids` of shape `(batch, length)`.
    """
    labels, device = batch["labels"], batch["labels"].device
    rows, length = labels.shape
    target = labels != IGNORED
    kept = torch.zeros(rows, tokens - 1, length, dtype=torch.bool, device=device)
    alive = target.roll(-1, dims=1)  # position p predicts the token at p + 1
    alive[:, -1] = False
    for depth in range(1, tokens):
        ahead = target.roll(-depth - 1, dims=1)
        ahead[:, -depth - 1 :] = False
        alive = alive & ahead & (torch.rand(rows, length, device=device) < keep)
        kept[:, depth - 1] = alive
    row, depth, base = kept.nonzero(as_tuple=True)
    depth = depth + 1
    counts = kept.flatten(1).sum(dim=1)
    # The n-th mask of its row.
    number = torch.arange(len(row), device=device) - (counts.cumsum(0) - counts)[row]
    masks = int(counts.max())
    place = length + number
    extended = {
        name: torch.cat((values, values.new_zeros(rows, masks + 1, *values.shape[2:])), dim=1)
        for name, values in batch.items()
        if name != "attention_mask"
    }
    extended["input_ids"][row, place] = mask_id
    extended["labels"][:, length:] = IGNORED
    for name, values in extended.items():  # what is predicted stands one further, as everywhere
        if name != "input_ids":
            values[row, place + 1] = batch[name][row, base + depth + 1]
    total = length + masks + 1
    positions = torch.arange(total, device=device).expand(rows, -1).clone()
    positions[row, place] = base + depth
    # Of each place: up to where it reads the text, and whose mask it is.
    reach = positions.clamp(max=length - 1)
    reach[row, place] = base
    owner = positions.new_full((rows, total), -1)
    owner[row, place] = base
    real = torch.cat((batch["attention_mask"].bool(), labels.new_zeros(rows, masks + 1).bool()), dim=1)
    text = torch.arange(total, device=device)
    seen = real[:, None] & (text <= reach[:, :, None])
    same = (owner[:, :, None] == owner[:, None]) & (owner >= 0)[:, None]
    seen |= same & (positions[:, None] <= positions[:, :, None])
    seen |= torch.eye(total, dtype=torch.bool, device=device)  # padding must attend to something
    return extended | {"position_ids": positions, "attention_mask": seen[:, None]}


def check_attention(config: PretrainedConfig, max_length: int) -> None:
    """Make sure that a drafter's attention can follow the masks of `add_masks`."""
    implementation, window = config._attn_implementation, getattr(config, "sliding_window", None)
    if implementation not in ("sdpa", "eager"):
        raise InputError(f"parallel_tokens cannot be trained with attention {implementation}: use sdpa")
    if window and window < max_length:
        raise InputError(
            f"parallel_tokens needs max_length up to the attention's window of {window}, got {max_length}"
        )
