"""The network's step as a captured CUDA graph: one launch instead of a hundred."""

import warnings

import torch

from .network import LayerView, LeanNetwork

_WARM_UP_STEPS = 3


class GraphedNetwork(LeanNetwork):
    """Replay single steps from a graph; everything else is `LeanNetwork`'s.

    A graph works on fixed places in memory, so the step attends to the whole preallocated cache with a mask over what
    is not written yet. It is captured anew when the cache grows. Where capturing fails, steps are launched one by one
    and a warning says why.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None = None) -> None:
        super().__init__(model, draft_ids)
        self._ids = torch.zeros(1, dtype=torch.long, device=self.device)
        self._place = torch.zeros(1, dtype=torch.long, device=self.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_capacity = 0
        self._failed = False

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens; see `LeanNetwork.read`. What is returned is overwritten by the next step."""
        if len(token_ids) != 1 or self._failed or self.length >= self.capacity:
            return super().read(token_ids)
        self._ids.fill_(token_ids[0])
        self._place.fill_(self.length)
        if self._captured_capacity != self.capacity and not self._capture():
            return super().read(token_ids)
        self._graph.replay()
        self.length += 1
        return self._logits

    def step(self) -> torch.Tensor:
        """Read the token in `_ids` at the position in `_place`, with tensors of fixed shape and place alone."""
        places = torch.arange(self.capacity, device=self.device)[None]
        views = {}
        for kind in self.kinds:
            hidden = places > self._place
            if kind.window is not None:
                hidden = hidden | (places <= self._place - kind.window)
            mask = torch.zeros((1, self.capacity), dtype=self.dtype, device=self.device)
            cosines, sines = (rotation[self._place] for rotation in self._rotations[kind])
            views[kind] = LayerView(cosines, sines, slice(0, self.capacity), mask.masked_fill(hidden, float("-inf")))
        return self.logits(self.forward(self._ids, self._place, views))[0]

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
        except (RuntimeError, AssertionError, ValueError) as error:  # the last two where there is no CUDA
            self._failed = True
            reason = " ".join(str(error).split())
            warnings.warn(f"the drafter's step cannot be captured and is launched in pieces: {reason}", stacklevel=4)
            return False
        self._captured_capacity = self.capacity
        return True
