"""Search the layers of a target from which its drafter should start."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from drafter_trainer.drafters.loop.sources import cut_prompt
from drafter_trainer.errors import InputError

_Texts = Sequence[tuple[list[int], list[int]]]  # prompts and completions


@torch.inference_mode()
def search_layers(
    model: PreTrainedModel,
    rows: Sequence[Mapping[str, Any]],
    num_hidden_layers: int,
    *,
    prompt_window: int | None = None,
    batch_size: int = 32,
) -> list[int]:
    """Search the layers of a target that predict its completions best without training.

    Layers are removed one at a time. Each step removes the layer whose removal leaves the lowest cross-entropy. The
    first layer always stays. Logits are computed only for ids that occur in the completions. A target of n layers
    takes at most n²/2 forward passes over the rows; two dozen rows are enough.

    Args:
        model (`PreTrainedModel`): The target; it is not changed.
        rows (`Sequence[Mapping]`): Greedy rows of `distill`, with `prompt_ids` and `response_ids`.
        num_hidden_layers (`int`): Number of layers to keep.
        prompt_window (`int`, *optional*): Window of the prompt that the drafter will read; by default all of it.
        batch_size (`int`, *optional*, defaults to `32`): Rows in one forward pass.
    Returns:
        `list[int]`, ascending: `layers` of `create_drafter`.
    Raises:
        InputError: If the target has fewer layers, or there are no completions.
    Source: Song et al., "SLEB" (arXiv 2402.09025), who remove blocks one by one in the same way, by perplexity.
    """
    depth = len(model.get_decoder().layers)
    if not 1 <= num_hidden_layers <= depth:
        raise InputError(f"num_hidden_layers {num_hidden_layers}: the target has {depth} layers to choose from")
    texts = [(cut_prompt(row["prompt_ids"], prompt_window), list(row["response_ids"])) for row in rows]
    texts = [(prompt, completion) for prompt, completion in texts if prompt and completion]
    if not texts:
        raise InputError("no rows with a prompt and a completion: layers cannot be compared")
    texts.sort(key=lambda text: len(text[0]) + len(text[1]))  # batches of similar lengths
    batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    ids = torch.tensor(sorted({token for _, completion in texts for token in completion}), device=model.device)
    head, kept = model.get_output_embeddings().weight[ids], list(range(depth))
    while len(kept) > num_hidden_layers:
        candidates = [[layer for layer in kept if layer != removed] for removed in kept[1:]]
        kept = min(candidates, key=lambda layers: _loss_with(model, layers, batches, ids, head))
    return kept


def _loss_with(
    model: PreTrainedModel,
    layers: Sequence[int],
    batches: Sequence[_Texts],
    ids: torch.Tensor,
    head: torch.Tensor,
) -> float:
    """Return the summed cross-entropy over some ids of the completions, with some of the layers, in nats."""
    total = 0.0
    with _only_layers(model.get_decoder(), layers) as decoder:
        for texts in batches:
            # Causal attention does not see the padding on the right.
            whole = [torch.tensor(prompt + completion, device=ids.device) for prompt, completion in texts]
            hidden = decoder(input_ids=pad_sequence(whole, batch_first=True), use_cache=False).last_hidden_state
            for index, (prompt, completion) in enumerate(texts):
                predicting = hidden[index, len(prompt) - 1 : len(prompt) + len(completion) - 1]
                labels = torch.searchsorted(ids, torch.tensor(completion, device=ids.device))
                total += cross_entropy((predicting @ head.T).float(), labels, reduction="sum").item()
    return total


@contextmanager
def _only_layers(decoder: torch.nn.Module, layers: Sequence[int]) -> Iterator[torch.nn.Module]:
    """Let a decoder run only some of its layers within the context."""
    config, whole = decoder.config, decoder.layers
    kept = {name: getattr(config, name, None) for name in ("num_hidden_layers", "layer_types")}
    decoder.layers = torch.nn.ModuleList([whole[layer] for layer in layers])
    config.num_hidden_layers = len(layers)
    if kept["layer_types"]:
        config.layer_types = [kept["layer_types"][layer] for layer in layers]
    try:
        yield decoder
    finally:
        decoder.layers = whole
        for name, value in kept.items():
            if value is not None:
                setattr(config, name, value)
