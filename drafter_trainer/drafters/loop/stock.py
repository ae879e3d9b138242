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
        self.kv_sharing_layers = None  # it reads with the modules of transformers, which keep a cache of their own
        self._cache = DynamicCache(config=model.config)
        self._cache.activate_past_recording()

    @property
    def length(self) -> int:
        """Tokens that were read."""
        return self._cache.get_seq_length()

    def crop(self, length: int) -> None:
        """Forget what was read from position `length` on."""
        surplus = self.length - min(length, self.length)
        if length == 0:
            self._cache = DynamicCache(config=self.model.config)
            self._cache.activate_past_recording()
        elif surplus:
            self._cache.crop(-surplus)

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens; see `LeanNetwork.read`."""
        ids = torch.tensor([token_ids], device=self.model.device)
        logits = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[0, 0]
        return (logits if self.draft_ids is None else logits[self.draft_ids]).float()
