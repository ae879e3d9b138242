"""The drafter's network through its stock modules, for families that cannot be run lean."""

import torch
from transformers import DynamicCache


class StockNetwork:
    """The drafter's own forward pass, with the interface of `LeanNetwork`.

    Args:
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Ids whose logits are returned.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None = None) -> None:
        self.model, self.device = model, model.device
        self.draft_ids = None if draft_ids is None else draft_ids.to(model.device)
        self.limit = model.config.max_position_embeddings
        self.prompt_window = getattr(model.config, "prompt_window", None)
        self.parallel_tokens = getattr(model.config, "parallel_tokens", None) or 1
        self.kv_sharing_layers = None  # it reads with the modules of transformers, which keep a cache of their own
        self._mask_id = getattr(model.config, "pard_token", None)
        self._masks = 0  # of these, in the cache behind the text
        self._cache = DynamicCache(config=model.config)
        self._cache.activate_past_recording()

    @property
    def length(self) -> int:
        """Tokens that were read."""
        return self._cache.get_seq_length() - self._masks

    def crop(self, length: int) -> None:
        """Forget what was read from position `length` on."""
        surplus = self._cache.get_seq_length() - min(length, self.length)
        self._masks = 0
        if length == 0:
            self._cache = DynamicCache(config=self.model.config)
            self._cache.activate_past_recording()
        elif surplus:
            self._cache.crop(-surplus)

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens; see `LeanNetwork.read`."""
        return self._read(token_ids, 1)[0]

    @torch.inference_mode()
    def read_ahead(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens and masks; see `LeanNetwork.read_ahead`."""
        masks = max(0, min(self.parallel_tokens - 1, self.limit - self.length - len(token_ids)))
        logits = self._read([*token_ids, *[self._mask_id] * masks], masks + 1)
        self._masks = masks
        return logits

    def _read(self, token_ids: list[int], kept: int) -> torch.Tensor:
        if self._masks:  # a sliding cache gives back what they pushed out, once between two reads
            self.crop(self.length)
        ids = torch.tensor([token_ids], device=self.model.device)
        logits = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=kept).logits[0]
        return (logits if self.draft_ids is None else logits[:, self.draft_ids]).float()
