"""The drafter's network without module overhead: one sequence, one token at a time.

The stock modules spend most of a small network's step on calls. Here the weights are laid out once (norms folded into
the projections behind them, projections of one input fused, the head cut to the draft vocabulary, int8 where asked
for), and the keys and values lie in a preallocated cache.
"""

import torch
import torch.nn.functional as F

# model_type -> whether a norm's weight is stored less one, and whether embeddings are scaled by sqrt(width)
FAMILIES = {"llama": (False, False), "mistral": (False, False), "qwen2": (False, False), "gemma": (True, True)}
ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
_FIRST_CAPACITY = 512
_PIECE = 512


def reason_against(model) -> str | None:
    """Say why a network cannot be run lean, or `None` where it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of the families {', '.join(FAMILIES)}"
    if config.hidden_act not in ACTIVATIONS:
        return f"its activation {config.hidden_act} is none of {', '.join(ACTIVATIONS)}"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (config.model_type == "mistral" and config.sliding_window is not None):
        return "its attention slides over a window"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        return f"its rotary embedding {rope['rope_type']} depends on the length"
    return None


class Weight:
    """Hold one matrix as it is multiplied with.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): Values.
        bias (`torch.Tensor` of shape `(out,)`, *optional*): Added behind.
        int8 (`bool`): Keep a byte a value, with a scale for each row.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, int8: bool) -> None:
        self.bias = bias
        self.scale = None
        self.weight = weight.contiguous()
        if int8:
            largest = weight.float().abs().amax(dim=1).clamp(min=1e-8)
            self.weight = (weight.float() * (127 / largest)[:, None]).round().to(torch.int8).contiguous()
            # With bf16 activations the kernel is three to twelve times as fast as with fp32 ones (torch 2.13).
            self.scale = (largest / 127).to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply `x` of shape `(tokens, in)`; the result has the shape `(tokens, out)`."""
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        product = torch._weight_int8pack_mm(x.to(torch.bfloat16), self.weight, self.scale).to(x.dtype)
        return product if self.bias is None else product + self.bias


class LeanNetwork:
    """Run a drafter of a Llama-like family on one sequence.

    Args:
        model (`PreTrainedModel`): The drafter, on its device; see `reason_against`.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`, *optional*): Ids that the head is cut to, ascending.
            All if left out.
        int8 (`bool`, *optional*, defaults to `False`): Multiply with int8 weights. On a CPU alone.
    """

    def __init__(self, model, draft_ids: torch.Tensor | None = None, int8: bool = False) -> None:
        config = model.config
        less_one, scaled = FAMILIES[config.model_type]
        self.device, self.dtype = model.device, model.dtype
        self.heads, self.key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.epsilon = config.rms_norm_eps
        self.activation = ACTIVATIONS[config.hidden_act]
        self.scale = self.head_dim**-0.5
        self.embedding_scale = config.hidden_size**0.5 if scaled else 1.0
        body = model.get_decoder()
        self.embeddings = model.get_input_embeddings().weight.detach()
        self.layers = [_Layer(layer, less_one, int8) for layer in body.layers]
        head = model.get_output_embeddings().weight.detach()
        self.draft_ids = None if draft_ids is None else draft_ids.to(self.device)
        head = head if self.draft_ids is None else head[self.draft_ids]
        self.head = Weight(_fold(head, body.norm, less_one), None, int8)
        self._rotary = body.rotary_emb
        self.limit = config.max_position_embeddings
        self.capacity = self.length = 0
        self._reserve(min(_FIRST_CAPACITY, self.limit))

    def crop(self, length: int) -> None:
        """Forget what was read from position `length` on."""
        self.length = min(self.length, length)

    @torch.inference_mode()
    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Read tokens and tell what may come next.

        Returns:
            `torch.Tensor` of shape `(draft vocabulary,)`: logits behind the last token, in fp32.
        Raises:
            ValueError: If the sequence passes the drafter's context.
        """
        end = self.length + len(token_ids)
        if end > self.limit:
            raise ValueError(f"{end} tokens pass the drafter's context of {self.limit}")
        if end > self.capacity:
            self._reserve(min(self.limit, max(end, 2 * self.capacity)))
        # In pieces: the attention of a long prompt at once would take memory by the square of its length.
        for place in range(0, len(token_ids), _PIECE):
            hidden = self._read_piece(token_ids[place : place + _PIECE])
        return self.logits(hidden[-1:])

    def _read_piece(self, token_ids: list[int]) -> torch.Tensor:
        start, end = self.length, self.length + len(token_ids)
        ids = torch.tensor(token_ids, device=self.device)
        mask = None
        if len(token_ids) > 1:
            mask = torch.full((len(token_ids), end), float("-inf"), dtype=self.dtype, device=self.device)
            mask = mask.triu(start + 1)
        self.length = end
        return self.forward(ids, self._cosines[start:end], self._sines[start:end], slice(start, end), end, mask)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Apply last norm and head to one position, of shape `(1, width)`."""
        return self.head(F.rms_norm(x, x.shape[-1:], eps=self.epsilon))[0].float()

    def forward(
        self,
        ids: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        place: slice | torch.Tensor,
        end: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run the layers.

        Args:
            ids (`torch.Tensor` of shape `(tokens,)`): What is read.
            cosines, sines (`torch.Tensor` of shape `(tokens, head_dim)`): Of their positions.
            place (`slice` or `torch.Tensor` of shape `(tokens,)`): Where their keys and values go in the cache.
            end (`int`): Attend to so much of the cache.
            mask (`torch.Tensor` of shape `(tokens, end)`, *optional*): 0 where a token attends, -inf elsewhere.
        Returns:
            `torch.Tensor` of shape `(tokens, width)`.
        """
        x = F.embedding(ids, self.embeddings)
        if self.embedding_scale != 1.0:
            x = x * torch.tensor(self.embedding_scale, dtype=x.dtype)
        for layer, keys, values in zip(self.layers, self._keys, self._values):
            attended = self._attend(layer, x, cosines, sines, place, end, mask, keys, values)
            x = x + layer.output(attended)
            gate, up = layer.gate_up(F.rms_norm(x, x.shape[-1:], eps=self.epsilon)).chunk(2, dim=-1)
            x = x + layer.down(self.activation(gate) * up)
        return x

    def _attend(self, layer, x, cosines, sines, place, end, mask, keys, values) -> torch.Tensor:
        tokens = x.shape[0]
        fused = layer.query_key_value(F.rms_norm(x, x.shape[-1:], eps=self.epsilon))
        fused = fused.view(tokens, -1, self.head_dim).transpose(0, 1)
        turned = fused[: -self.key_value_heads]
        # The sign of the rotation's second half is in `sines`.
        turned = turned * cosines + turned.roll(self.head_dim // 2, dims=-1) * sines
        keys[:, place] = turned[self.heads :]
        values[:, place] = fused[-self.key_value_heads :]
        queries = turned[: self.heads].reshape(self.key_value_heads, -1, self.head_dim)
        weights = torch.baddbmm(layer.zero, queries, keys[:, :end].transpose(1, 2), beta=0, alpha=self.scale)
        if mask is not None:
            weights = weights.view(self.key_value_heads, -1, tokens, end) + mask
            weights = weights.view(self.key_value_heads, -1, end)
        weights = weights.softmax(dim=-1, dtype=torch.float32).to(x.dtype)
        attended = torch.bmm(weights, values[:, :end])
        return attended.view(self.heads, tokens, self.head_dim).transpose(0, 1).reshape(tokens, -1)

    def _reserve(self, capacity: int) -> None:
        shape = (len(self.layers), self.key_value_heads, capacity, self.head_dim)
        keys, values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        if self.capacity:
            keys[:, :, : self.capacity], values[:, :, : self.capacity] = self._keys, self._values
        self._keys, self._values, self.capacity = keys, values, capacity
        positions = torch.arange(capacity, device=self.device)
        cosines, sines = self._rotary(keys[0], positions[None])
        sines = torch.cat((-sines[0, :, : self.head_dim // 2], sines[0, :, self.head_dim // 2 :]), dim=-1)
        self._cosines, self._sines = cosines[0], sines


class _Layer:
    def __init__(self, layer, less_one: bool, int8: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.query_key_value = _fuse(
            (attention.q_proj, attention.k_proj, attention.v_proj), layer.input_layernorm, less_one, int8
        )
        self.output = _fuse((attention.o_proj,), None, less_one, int8)
        self.gate_up = _fuse((mlp.gate_proj, mlp.up_proj), layer.post_attention_layernorm, less_one, int8)
        self.down = _fuse((mlp.down_proj,), None, less_one, int8)
        self.zero = torch.zeros((), dtype=attention.q_proj.weight.dtype, device=attention.q_proj.weight.device)


def _fuse(projections, norm, less_one: bool, int8: bool) -> Weight:
    weight = torch.cat([projection.weight.detach() for projection in projections])
    biases = [projection.bias for projection in projections]
    bias = None if biases[0] is None else torch.cat(biases).detach()
    return Weight(weight if norm is None else _fold(weight, norm, less_one), bias, int8)


def _fold(weight: torch.Tensor, norm, less_one: bool) -> torch.Tensor:
    """Multiply a norm's weight into the matrix behind it: the norm itself is then a plain division."""
    factor = norm.weight.detach().float() + (1.0 if less_one else 0.0)
    return (weight.float() * factor).to(weight.dtype)
