"""The ways to run a drafter's network: lean, lean with a CUDA graph, or through the modules of transformers."""

import warnings

import torch
from transformers import DynamicCache

from .calls import CACHE
from .network import LayerView, LeanNetwork, reason_against
from .networkless import MODEL_TYPE

_WARM_UP_STEPS = 3


def build_network(model, draft_ids: torch.Tensor | None, int8: bool) -> "LeanNetwork | StockNetwork | None":
    """Build the fastest network that can run a drafter; `None` for a drafter without a network.

    The network drafts `draft_ids`, or all ids without them. `int8` weights are used only on a CPU. If the modules of
    transformers have to run the network, a warning gives the reason.
    """
    if model.config.model_type == MODEL_TYPE:  # not by its class, which remote code defines again
        return None
    if (reason := reason_against(model)) is not None:
        warnings.warn(f"{model.name_or_path} drafts through its stock modules: {reason}", stacklevel=2)
        return StockNetwork(model, draft_ids)
    if model.device.type == "cuda":
        return GraphedNetwork(model, draft_ids)
    return LeanNetwork(model, draft_ids, int8=int8 and model.device.type == "cpu")


class StockNetwork:
    """The drafter's own forward pass, with the interface of `LeanNetwork`."""

    kv_sharing_layers = None  # the modules of transformers keep a cache of their own

    def __init__(self, model, draft_ids: torch.Tensor | None = None) -> None:
        self.model, self.device = model, model.device
        self.draft_ids = None if draft_ids is None else draft_ids.to(model.device)
        self.limit = model.config.max_position_embeddings
        self.prompt_window = getattr(model.config, "prompt_window", None)
        self._empty_cache()

    def _empty_cache(self) -> None:
        self._cache = DynamicCache(config=self.model.config)
        self._cache.activate_past_recording()

    @property
    def length(self) -> int:
        """Number of tokens that were read."""
        return self._cache.get_seq_length()

    def crop(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        if length == 0:
            self._empty_cache()
        elif length < self.length:
            self._cache.crop(length - self.length)

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens; see `LeanNetwork.read`."""
        ids = torch.tensor([token_ids], device=self.device)
        logits = self.model(input_ids=ids, **{CACHE: self._cache}, use_cache=True, logits_to_keep=1).logits[0, 0]
        return (logits if self.draft_ids is None else logits[self.draft_ids]).float()


class GraphedNetwork(LeanNetwork):
    """A lean network whose single steps replay a CUDA graph: one launch instead of a hundred.

    A graph works on fixed memory addresses, so a step attends to the whole preallocated cache with a mask. The graph
    is captured again when the cache grows. If that fails, operations are launched one by one, with a warning.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None = None) -> None:
        super().__init__(model, draft_ids)
        self._ids = torch.zeros(1, dtype=torch.long, device=self.device)
        self._position = torch.zeros(1, dtype=torch.long, device=self.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_capacity = 0
        self._failed = False

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens; see `LeanNetwork.read`. The next step overwrites the result."""
        if len(token_ids) != 1 or self._failed or self.length >= self.capacity:
            return super().read(token_ids)
        self._ids.fill_(token_ids[0])
        self._position.fill_(self.length)
        if self._captured_capacity != self.capacity and not self._capture():
            return super().read(token_ids)
        self._graph.replay()
        self.length += 1
        return self._logits

    def step(self) -> torch.Tensor:
        """Read the token in `_ids` at the position in `_position`, in tensors of fixed shapes and addresses."""
        positions = torch.arange(self.capacity, device=self.device)[None]
        views = {}
        for kind in self.kinds:
            hidden = positions > self._position
            if kind.window is not None:
                hidden = hidden | (positions <= self._position - kind.window)
            mask = torch.zeros((1, self.capacity), dtype=self.dtype, device=self.device)
            cosines, sines = (rotation[self._position] for rotation in self._rotations[kind])
            views[kind] = LayerView(cosines, sines, slice(0, self.capacity), mask.masked_fill(hidden, float("-inf")))
        return self.logits(self.forward(self._ids, self._position, views))[0]

    def _capture(self) -> bool:
        try:
            with torch.cuda.device(self.device):
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP_STEPS):
                        self.step()
                torch.cuda.current_stream().wait_stream(stream)
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=stream):
                    self._logits = self.step()
        except (RuntimeError, AssertionError, ValueError) as error:  # the last two without CUDA
            self._failed = True
            reason = " ".join(str(error).split())
            warnings.warn(f"the drafter's step cannot be captured and is launched in pieces: {reason}", stacklevel=4)
            return False
        self._captured_capacity = self.capacity
        return True
