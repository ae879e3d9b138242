"""The drafter's network without the overhead of modules: one sequence, one token at a time.

Calls of the stock modules take most of a small network's step. Here projections of one input are fused, the head is
pruned to the draft vocabulary, weights are int8 on request, keys and values are written to a preallocated cache, and a
layer consists of as few operations as possible: on a CPU each takes a microsecond or more.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .weights import Norm, Weight

_FIRST_CAPACITY = 512
_PIECE = 512
# model_type -> whether a norm stores its weight minus one, and whether embeddings are scaled by sqrt(width)
FAMILIES = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (False, False),
    "qwen3": (False, False),
    "gemma": (True, True),
    "gemma3_text": (True, True),
}


def reason_against(model) -> str | None:
    """Return the reason why `LeanNetwork` cannot run a model, or `None` if it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of the families {', '.join(FAMILIES)}"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        return "its logits are capped"
    if getattr(config, "use_bidirectional_attention", False):
        return "it attends to later tokens"
    if any(True for _ in model.get_decoder().layers[0].mlp.act_fn.parameters()):
        return f"its activation {config.hidden_act} has weights of its own"
    rope = config.rope_parameters
    for parameters in [rope] if "rope_type" in rope else rope.values():
        if parameters["rope_type"] in ("dynamic", "longrope"):
            return f"its rotary embedding {parameters['rope_type']} depends on the length"
    return None


class LayerKind(NamedTuple):
    """A kind of layers: the layer type of its rotary embedding, if types differ, and its attention window, if any."""

    rotary: str | None
    window: int | None


class LayerView(NamedTuple):
    """The positions to which layers of one kind attend: cosines and sines of the tokens, and a part of the cache.

    The mask has one row for each query of a key-value head, 0 where it attends and -inf elsewhere.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    seen: slice
    mask: torch.Tensor | None


class LeanNetwork:
    """A drafter of a Llama-like family, run on one sequence without the modules of transformers.

    The head is pruned to `draft_ids`, in ascending order; without ids, it is not pruned. `int8` weights are for CPUs.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None = None, int8: bool = False) -> None:
        config = model.config
        less_one, scaled = FAMILIES[config.model_type]
        self.device, self.dtype = model.device, model.dtype
        self.heads, self.key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.prompt_window = getattr(config, "prompt_window", None)
        self.kv_sharing_layers = getattr(config, "kv_sharing_layers", None)
        self.embedding_scale = torch.tensor(config.hidden_size**0.5, dtype=self.dtype) if scaled else None
        body = model.get_decoder()
        self.scale = body.layers[0].self_attn.scaling
        self.activation = body.layers[0].mlp.act_fn
        self.embeddings = model.get_input_embeddings().weight.detach()
        self.layers = [_Layer(layer, config, less_one, int8) for layer in body.layers]
        self.kinds = sorted({layer.kind for layer in self.layers}, key=str)
        head = model.get_output_embeddings().weight.detach()
        self.draft_ids = None if draft_ids is None else draft_ids.to(self.device)
        head = head if self.draft_ids is None else head[self.draft_ids]
        self.norm = Norm(_factors(body.norm, less_one).to(self.dtype), config.rms_norm_eps)
        self.head = Weight(head, None, int8, many=False)
        self._rotary = body.rotary_emb
        self.limit = config.max_position_embeddings
        self.capacity = self.length = 0
        self._reserve(min(_FIRST_CAPACITY, self.limit))

    def crop(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        self.length = min(self.length, length)

    @torch.inference_mode()
    def share(self, cache, start: int, end: int) -> bool:
        """Replace the network's own keys and values by the target's, if the network was trained with them.

        Positions from `start` to `end` are replaced, and the network continues at `end`. The cache must hold `end`
        tokens of one sequence. Returns `False`, and replaces nothing, if the cache has other tokens or shapes.
        """
        kept = self._shared_layers(cache, end)
        if kept is None or end > self.limit:
            return False
        self._make_room(end)
        for layer, keys, values in zip(kept, self._keys, self._values):
            first = end - layer.keys.shape[-2]  # a sliding window has dropped earlier tokens
            positions = slice(max(start, first), end)
            keys[:, positions] = layer.keys[0, :, positions.start - first :]
            values[:, positions] = layer.values[0, :, positions.start - first :]
        self.length = end
        return True

    def _shared_layers(self, cache, tokens: int) -> list[Any] | None:
        """Return the target's layers whose keys and values replace the network's, `None` if the cache does not fit."""
        wanted, layers = self.kv_sharing_layers, getattr(cache, "layers", ())
        if not wanted or len(layers) <= max(wanted) or cache.get_seq_length() != tokens:
            return None
        kept = [layers[number] for number in wanted]
        for layer, own in zip(kept, self.layers):
            keys = getattr(layer, "keys", None)
            if keys is None or keys.ndim != 4:
                return None
            windowed = getattr(layer, "is_sliding", False) and own.kind.window is not None
            held = keys.shape[-2] if windowed else tokens
            if held > tokens or keys.shape != (1, self.key_value_heads, held, self.head_dim):
                return None
        return kept

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens and return the fp32 logits after the last one, of shape `(draft vocabulary,)`.

        Raises:
            ValueError: If the sequence is longer than the drafter's context.
        """
        end = self.length + len(token_ids)
        if end > self.limit:
            raise ValueError(f"{end} tokens exceed the drafter's context of {self.limit}")
        self._make_room(end)
        # In pieces: the memory for the attention of a whole prompt would grow with the square of its length.
        for start in range(0, len(token_ids), _PIECE):
            hidden = self._read_piece(token_ids[start : start + _PIECE])
        return self.logits(hidden[-1:])[0]

    def _read_piece(self, token_ids: list[int]) -> torch.Tensor:
        start, self.length = self.length, self.length + len(token_ids)
        positions = slice(start, self.length)
        return self.forward(torch.tensor(token_ids, device=self.device), positions, self._view(positions))

    def _view(self, positions: slice) -> dict[LayerKind, LayerView]:
        """Return the views of tokens at positions of one sequence, by kind of layer."""
        start, end = positions.start, positions.stop
        views = {}
        for kind in self.kinds:
            first, mask = 0 if kind.window is None else max(0, start - kind.window + 1), None
            if end - start > 1:
                mask = torch.full((end - start, end - first), float("-inf"), dtype=self.dtype, device=self.device)
                after = mask.triu(start + 1 - first)
                mask = after if kind.window is None else after + mask.tril(start - kind.window - first)
                mask = mask.repeat(self.heads // self.key_value_heads, 1)
            cosines, sines = self._rotations[kind]
            views[kind] = LayerView(cosines[positions], sines[positions], slice(first, end), mask)
        return views

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Apply last norm and head to positions of shape `(tokens, width)`."""
        return self.head(self.norm(x)).float()

    def forward(
        self, ids: torch.Tensor, positions: slice | torch.Tensor, views: dict[LayerKind, LayerView]
    ) -> torch.Tensor:
        """Run the layers on `ids` at positions of the cache; return hidden states of shape `(tokens, width)`."""
        x = F.embedding(ids, self.embeddings)
        if self.embedding_scale is not None:
            x = x * self.embedding_scale
        for layer, keys, values in zip(self.layers, self._keys, self._values):
            attended = layer.output(self._attend(layer, x, positions, views[layer.kind], keys, values))
            x = x + (attended if layer.attended_norm is None else layer.attended_norm(attended))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            activated = layer.down(self.activation(gate) * up)
            x = x + (activated if layer.activated_norm is None else layer.activated_norm(activated))
        return x

    def _project(self, layer, x, view) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, each of shape `(heads, tokens, head_dim)`, the first two rotated."""
        fused = layer.query_key_value(layer.attention_norm(x)).view(x.shape[0], -1, self.head_dim).transpose(0, 1)
        turned = fused[: -self.key_value_heads]
        if layer.head_norm is not None:
            turned = layer.head_norm(turned)
        # The sign of the rotation's second half is in `sines`.
        turned = torch.addcmul(turned * view.cosines, turned.roll(self.head_dim // 2, dims=-1), view.sines)
        return turned[: self.heads], turned[self.heads :], fused[-self.key_value_heads :]

    def _attend(self, layer, x, positions, view, keys, values) -> torch.Tensor:
        queries, keys[:, positions], values[:, positions] = self._project(layer, x, view)
        # Heads that share keys are passed as further tokens: grouped heads take twice as long (torch 2.13).
        queries = queries.reshape(1, self.key_value_heads, -1, self.head_dim)
        seen = keys[None, :, view.seen], values[None, :, view.seen]
        attended = F.scaled_dot_product_attention(queries, *seen, attn_mask=view.mask, scale=self.scale)
        return attended.view(self.heads, len(x), self.head_dim).transpose(0, 1).reshape(len(x), -1)

    def _make_room(self, tokens: int) -> None:
        """Grow the cache, if needed, to hold this number of tokens."""
        if tokens > self.capacity:
            self._reserve(min(self.limit, max(tokens, 2 * self.capacity)))

    def _reserve(self, capacity: int) -> None:
        shape = (len(self.layers), self.key_value_heads, capacity, self.head_dim)
        keys, values = (torch.zeros(shape, dtype=self.dtype, device=self.device).unbind() for _ in range(2))
        if self.capacity:
            for new, old in zip((*keys, *values), (*self._keys, *self._values)):
                new[:, : self.capacity] = old
        self._keys, self._values, self.capacity = keys, values, capacity
        self._rotations = self._rotate_positions(keys[0], capacity)

    def _rotate_positions(
        self, like: torch.Tensor, capacity: int
    ) -> dict[LayerKind, tuple[torch.Tensor, torch.Tensor]]:
        """Return cosines and sines of the first positions, for each kind of layer."""
        positions, half, rotations = torch.arange(capacity, device=self.device)[None], self.head_dim // 2, {}
        for kind in self.kinds:
            cosines, sines = self._rotary(like, positions, *(() if kind.rotary is None else (kind.rotary,)))
            rotations[kind] = cosines[0], torch.cat((-sines[0, :, :half], sines[0, :, half:]), dim=-1)
        return rotations


class _Layer:
    def __init__(self, layer, config, less_one: bool, int8: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        sandwiched = hasattr(layer, "pre_feedforward_layernorm")
        rotates_by_type = "rope_type" not in config.rope_parameters
        windowed = config if config.model_type == "mistral" else attention
        self.kind = LayerKind(
            rotary=attention.layer_type if rotates_by_type else None,
            window=getattr(windowed, "sliding_window", None),
        )
        before_mlp = layer.pre_feedforward_layernorm if sandwiched else layer.post_attention_layernorm
        self.query_key_value = _fuse((attention.q_proj, attention.k_proj, attention.v_proj), int8)
        self.output = _fuse((attention.o_proj,), int8)
        self.gate_up = _fuse((mlp.gate_proj, mlp.up_proj), int8)
        self.down = _fuse((mlp.down_proj,), int8)

        def norm(*factors: torch.Tensor) -> Norm:
            return Norm(torch.cat(factors).to(attention.q_proj.weight.dtype), config.rms_norm_eps)

        self.attention_norm = norm(_factors(layer.input_layernorm, less_one))
        self.mlp_norm = norm(_factors(before_mlp, less_one))
        self.attended_norm = self.activated_norm = self.head_norm = None
        if sandwiched:
            self.attended_norm = norm(_factors(layer.post_attention_layernorm, less_one))
            self.activated_norm = norm(_factors(layer.post_feedforward_layernorm, less_one))
        if hasattr(attention, "q_norm"):
            norms = (attention.q_norm, config.num_attention_heads), (attention.k_norm, config.num_key_value_heads)
            self.head_norm = norm(*(_factors(each, less_one).expand(heads, 1, -1) for each, heads in norms))


def _fuse(projections, int8: bool) -> Weight:
    weight = torch.cat([projection.weight.detach() for projection in projections])
    biases = [projection.bias for projection in projections]
    bias = None if biases[0] is None else torch.cat(biases).detach()
    return Weight(weight, bias, int8)


def _factors(norm, less_one: bool) -> torch.Tensor:
    """Return the factors by which a norm multiplies, in fp32."""
    return norm.weight.detach().float() + (1.0 if less_one else 0.0)
