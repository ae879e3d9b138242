"""Fit a drafter to its target's vocabulary, which padding makes larger than the tokenizer.

Models of one tokenizer have embeddings of several sizes, such as 151,936 and 152,064 rows (Qwen 2.5), or 262,144 and
262,208 (Gemma 3). Assisted decoding takes another size for another tokenizer.
"""

import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.networkless import NetworklessDrafter


@torch.no_grad()
def fit_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Give a drafter's embeddings and head as many rows as its target's have; changed in place.

    Rows that are added hold the mean of the others, so that their logits are the mean of the others' and never the
    largest. Rows that are too many are cut off. A drafter is resized when it is loaded and stays so: no call of
    `generate` has anything left to do.

    Args:
        size (`int`): Of the target's vocabulary.
    """
    known = model.config.vocab_size
    if isinstance(model, NetworklessDrafter):
        model.config.vocab_size = size
        return
    if size == known:
        return
    # Its own way to fill new rows draws them by chance, after a covariance that takes minutes for large vocabularies.
    model.resize_token_embeddings(size, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight[known:] = layer.weight[:known].mean(dim=0, dtype=torch.float32).to(layer.weight.dtype)
