"""Hidden states of rows from a frozen target; a common prefix, such as a template's examples, is computed once."""

import copy
from collections import OrderedDict

import torch
from transformers import DynamicCache, PreTrainedModel

from drafter_trainer.drafters.loop.calls import CACHE

_KEY, _KEPT = 8, 16  # ids that identify a prefix; number of stored prefixes


class HiddenStateReader:
    """A reader of the inputs of the target's head for a batch, whose rows may have different templates.

    Args:
        target_model (`PreTrainedModel`): The target; it is frozen.
    """

    def __init__(self, target_model: PreTrainedModel) -> None:
        self._model = target_model
        # The ids of each prefix, and from the second row on the hidden states and the cache of the prefix.
        self._prefixes: OrderedDict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor | None, DynamicCache | None]] = (
            OrderedDict()
        )

    @torch.no_grad()
    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the hidden states of rows.

        Args:
            ids (`torch.Tensor` of shape `(batch, length)`): Token ids, padded on the right.
            mask (`torch.Tensor` of shape `(batch, length)`): 1 for tokens, 0 for padding.
        Returns:
            `torch.Tensor` of shape `(batch, length, width)`, in fp32.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, start in enumerate(ids[:, :_KEY].tolist()):
            groups.setdefault(tuple(start), []).append(row)
        hidden = torch.zeros(*ids.shape, self._model.config.get_text_config().hidden_size, device=ids.device)
        for key, rows in groups.items():
            longest = int(mask[rows].sum(dim=1).max())
            hidden[rows, :longest] = self._read_group(key, ids[rows, :longest], mask[rows, :longest]).float()
        return hidden

    def _read_group(self, key: tuple[int, ...], ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Read rows with the same first ids: first the shared prefix, if earlier rows had it too, then the rest."""
        seen = key in self._prefixes
        kept, states, cache = self._prefixes.pop(key, (ids[0], None, None))
        longest = min(len(kept), int(mask.sum(dim=1).min()) - 1)
        shared = int((ids[:, :longest] == kept[:longest]).all(dim=0).cumprod(dim=0).sum())
        if shared < _KEY:
            states = cache = None
        elif (seen or len(ids) > 1) and (cache is None or shared < len(kept)):
            cache = DynamicCache(config=self._model.config)
            states = self._run(ids[:1, :shared], None, cache)
        self._prefixes[key] = kept[:shared], states, cache
        if len(self._prefixes) > _KEPT:
            self._prefixes.popitem(last=False)
        if cache is None or states is None:
            return self._run(ids, mask, None)
        own = copy.deepcopy(cache)
        own.batch_repeat_interleave(len(ids))
        return torch.cat((states.expand(len(ids), -1, -1), self._run(ids[:, shared:], mask, own)), dim=1)

    def _run(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: DynamicCache | None) -> torch.Tensor:
        read = self._model.base_model(
            input_ids=ids, attention_mask=mask, **{CACHE: cache}, use_cache=cache is not None
        )
        return read.last_hidden_state
