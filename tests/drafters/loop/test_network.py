"""The lean network against the model's own forward, and its captured step."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from drafter_trainer.drafters.compact import _from_int4, _to_int4
from drafter_trainer.drafters.loop.network import LeanNetwork, reason_against
from drafter_trainer.drafters.loop.network_kinds import GraphedNetwork, StockNetwork, build_network
from drafter_trainer.drafters.loop.weights import Weight

SHAPE = {"vocab_size": 70, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}
SHAPE |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LAYERS = ["sliding_attention", "full_attention"]
# Far apart, and one of them scaled: layers that rotate by each other's are wrong from the first tokens on.
ROTATIONS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama with biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama without groups": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama with yarn": LlamaConfig(**SHAPE, rope_parameters=YARN),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=12),
    "mistral with windows": MistralConfig(**SHAPE, sliding_window=5),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2 with windows": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SHAPE | {"num_key_value_heads": 1}, head_dim=16),
    "gemma3": Gemma3TextConfig(
        **SHAPE, head_dim=12, sliding_window=5, layer_types=LAYERS, rope_parameters=ROTATIONS, query_pre_attn_scalar=20
    ),
}
TOKENS = [5, 17, 3, 3, 41, 69, 0, 12, 8, 30, 17, 3, 3, 22, 9, 64]


def make(config: PretrainedConfig) -> PreTrainedModel:
    """Make a model whose norms and biases, which start as ones and zeros, matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape))
    return model.eval()


@torch.inference_mode()
def stock_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


def check_reads(network: Any, model: PreTrainedModel, steps: list[tuple[int, list[int]]], atol: float = 1e-4) -> None:
    """Crop (beyond what was read: keep all), read tokens, and compare with the stock forward, step by step."""
    known: list[int] = []
    for length, tokens in steps:
        network.crop(length)
        known = known[:length] + tokens
        logits = network.read(tokens)
        expected = stock_logits(model, known)
        expected = expected if network.draft_ids is None else expected[network.draft_ids]
        assert network.length == len(known)
        assert logits.shape == expected.shape
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected.float(), atol=atol, rtol=0)


# Several tokens, single ones, a crop to the middle of what was read, and a new text
STEPS = [(0, TOKENS[:6]), (6, TOKENS[6:7]), (7, TOKENS[7:8]), (99, TOKENS[8:11]), (9, [1, 2, 3]), (12, [50])]
STEPS += [(4, [44]), (0, TOKENS[3:9]), (6, [33])]
# Beyond a window; drafts that are rejected in part or whole, always cropped once between two reads
SLIDING_STEPS = [(0, TOKENS[:10]), (10, [11]), (11, [12]), (12, [13]), (11, [14, 15]), (13, [16]), (13, [17])]
SLIDING_STEPS += [(0, TOKENS[:4]), (4, [1]), (3, [2, 3]), (0, TOKENS[2:14])]
SOME = torch.tensor([0, 3, 4, 30, 68])  # a head that is cut to a draft vocabulary


def test_int8_needs_rows_that_its_kernel_reads_whole() -> None:
    """Prevent a crash, or numbers from beyond a row, where its length is no multiple of what the kernel reads."""
    for width in (100, 120):
        weight, x = torch.randn(8, width), torch.randn(1, width)
        torch.testing.assert_close(Weight(weight, None, int8=True)(x), x @ weight.T, atol=0.5, rtol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_the_stock_forward(config: PretrainedConfig) -> None:
    """Prevent a slightly wrong norm, bias, rotation or mask, which only costs acceptance."""
    model = make(config)
    assert stock_logits(model, TOKENS).std() > 0.3
    assert reason_against(model) is None
    check_reads(LeanNetwork(model), model, STEPS)
    check_reads(LeanNetwork(model, SOME), model, STEPS)


@pytest.mark.parametrize(("name", "steps"), [("llama", STEPS), ("gemma3", SLIDING_STEPS)])
def test_stock_modules_read_alike(name: str, steps: list[tuple[int, list[int]]]) -> None:
    """Prevent missing keys when a rejected draft moves a sliding window back."""
    model = make(CONFIGS[name])
    check_reads(StockNetwork(model), model, steps)
    check_reads(StockNetwork(model, SOME), model, steps)


def test_network_is_lean_where_it_can_be(recwarn: pytest.WarningsRecorder) -> None:
    """A drafter that drafts slowly must say why; one that drafts lean must not warn at each start."""
    model = make(CONFIGS["mistral"])
    lean, rounded = build_network(model, SOME, int8=False), build_network(model, None, int8=True)
    assert isinstance(lean, LeanNetwork)
    assert torch.equal(lean.read(TOKENS), LeanNetwork(model, SOME).read(TOKENS))
    assert torch.equal(rounded.read(TOKENS), LeanNetwork(model, int8=True).read(TOKENS))
    assert [str(warning.message) for warning in recwarn] == []
    model.config.final_logit_softcapping = 30.0
    with pytest.warns(UserWarning, match="drafts through its stock modules: its logits are capped"):
        network = build_network(model, SOME, int8=True)
    assert isinstance(network, StockNetwork)
    assert torch.equal(network.draft_ids, SOME)


def test_cache_grows_beyond_its_first_capacity() -> None:
    """Keys lost when the cache moves would be missed by long prompts alone."""
    model = make(LlamaConfig(**SHAPE | {"max_position_embeddings": 1300}))
    long = torch.randint(0, 70, (1250,), generator=torch.Generator().manual_seed(0)).tolist()
    # One token beyond 512; many beyond twice that; back into the first part, and on.
    steps = [(0, long[:512]), (512, long[512:513]), (513, long[513:1200]), (400, long[:20]), (420, long[20:50])]
    check_reads(LeanNetwork(model), model, steps, atol=5e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_long_prompts_are_read_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of a prompt of thousands of tokens at once would take more memory than the target's own pass."""
    monkeypatch.setattr("drafter_trainer.drafters.loop.network._PIECE", 5)
    monkeypatch.setattr("drafter_trainer.drafters.loop.network._FIRST_CAPACITY", 8)
    model = make(CONFIGS[name])
    network = LeanNetwork(model)
    longest, attend = 0, network._attend

    def watched(layer, x, *rest):
        nonlocal longest
        longest = max(longest, len(x))
        return attend(layer, x, *rest)

    network._attend = watched
    check_reads(network, model, [(0, TOKENS), (7, TOKENS[:3]), (99, TOKENS)])
    assert longest == 5


def test_text_beyond_the_context_is_refused() -> None:
    """Positions that were never trained are garbage; a refusal must leave what was read usable."""
    model = make(LlamaConfig(**SHAPE | {"max_position_embeddings": 16}))
    network = LeanNetwork(model)
    assert network.limit == 16
    check_reads(network, model, [(0, TOKENS[:10])])
    with pytest.raises(ValueError, match="17 tokens exceed the drafter's context of 16"):
        network.read(TOKENS[:7])
    assert network.length == 10
    check_reads(network, model, [(0, TOKENS[:15]), (15, TOKENS[15:16])])


@pytest.mark.parametrize("name", ["llama with biases", "qwen2", "gemma", "gemma3"])
def test_int8_weights_are_close(name: str) -> None:
    """A scale or bias that is lost in int8 makes noise of the drafts and leaves them just as fast."""
    model = make(CONFIGS[name])
    lean, rounded = LeanNetwork(model), LeanNetwork(model, int8=True)
    for tokens in (TOKENS[:9], TOKENS[9:10], TOKENS[10:], TOKENS * 2):  # the last with weights of more bytes
        exact, close = lean.read(tokens), rounded.read(tokens)
        assert not torch.equal(exact, close)
        assert (exact - close).std() < 0.1 * exact.std()
    lean.crop(16), rounded.crop(16)
    close = rounded.read(TOKENS[:1])
    cut = LeanNetwork(model, torch.tensor([2, 60]), int8=True)
    for tokens in (TOKENS[:9], TOKENS[9:10], TOKENS[10:], TOKENS[:1]):
        logits = cut.read(tokens)
    torch.testing.assert_close(logits, close[[2, 60]])


def test_int8_rows_do_not_hold_the_norms_before_them() -> None:
    """Gemma's norms differ by the hundredfold: in a row's scale they cost four of a hundred accepted tokens."""
    model = make(CONFIGS["gemma3"])
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] *= 0.003
        for layer in model.model.layers:
            layer.input_layernorm.weight[0] = layer.pre_feedforward_layernorm.weight[0] = 300
            layer.post_attention_layernorm.weight[0] = layer.post_feedforward_layernorm.weight[0] = -1  # adds nothing
    lean, rounded = LeanNetwork(model), LeanNetwork(model, int8=True)
    exact, close = lean.read(TOKENS[:9]), rounded.read(TOKENS[:9])
    assert (exact - close).std() < 0.1 * exact.std()


def test_values_that_were_stored_in_int4_are_kept_in_int4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded once more, to int8 or to other int4 values, a compact drafter would lose acceptance at every load."""
    monkeypatch.setattr("drafter_trainer.drafters.loop.weights._multiplies_int4", lambda: True)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 96), torch.randn(48), torch.randn(3, 96)
    weight[:, 32:64] *= torch.linspace(0.001, 1, 48)[:, None]  # the scales of a row are multiples of its largest
    stored = _from_int4(*_to_int4(weight)).to(torch.bfloat16)
    kept, other = Weight(stored, bias, int8=True), Weight(weight, bias, int8=True)
    assert (kept.weight.nbytes, other.weight.nbytes) == (48 * 96 // 2, 48 * 96)
    assert (kept(x) - F.linear(x, stored.float(), bias)).std() < 0.004 * weight.std() * 96**0.5
    monkeypatch.setattr("drafter_trainer.drafters.loop.weights._multiplies_int4", lambda: False)
    assert Weight(stored, bias, int8=True).weight.nbytes == 48 * 96


@pytest.mark.parametrize("name", ["gemma", "gemma3", "qwen3"])
def test_half_precision_stays_close(name: str) -> None:
    """On an accelerator the drafter has the target's dtype: no step may fall back to another one or overflow."""
    model = make(CONFIGS[name])
    exact = stock_logits(model, TOKENS)
    half = model.to(torch.bfloat16)
    logits = LeanNetwork(half).read(TOKENS)
    assert (logits - exact).std() < 2 * (stock_logits(half, TOKENS).float() - exact).std()


def test_weights_are_left_as_they_are() -> None:
    """The model is saved, moved and run by others: norms folded into it in place would be applied twice."""
    model = make(CONFIGS["gemma"])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    LeanNetwork(model, torch.tensor([1, 2]), int8=True).read(TOKENS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(vocab_size=70, n_embd=32, n_layer=1, n_head=4), "gpt2 is none of the families llama,"),
        (Gemma3TextConfig(**SHAPE, head_dim=8, final_logit_softcapping=30.0), "its logits are capped"),
        (Gemma3TextConfig(**SHAPE, head_dim=8, use_bidirectional_attention=True), "attends to later tokens"),
        (LlamaConfig(**SHAPE, hidden_act="xielu"), "its activation xielu has weights of its own"),
        (LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "its rotary embedding"),
    ],
)
def test_what_cannot_be_run_lean_is_said(config: PretrainedConfig, reason: str) -> None:
    """A family that differs in one place would be run wrong, or without a word five times slower."""
    assert reason in reason_against(AutoModelForCausalLM.from_config(config))


# The captured step: a graph must replay the step itself, and without CUDA nothing but the speed may change.


class Replayed(GraphedNetwork):
    """Run the captured function itself, as a replay does: on fixed places, into a fixed place."""

    captures = 0

    def _capture(self) -> bool:
        self.captures += 1
        self._captured_capacity = self.capacity
        self._logits = torch.zeros(self.head.weight.shape[0])
        self._graph = SimpleNamespace(replay=lambda: self._logits.copy_(self.step()))
        return True


@pytest.mark.parametrize("draft_ids", [None, SOME], ids=["all ids", "draft vocabulary"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_fixed_step_is_the_step(name: str, draft_ids: torch.Tensor | None) -> None:
    """It sees the whole cache, also what a rejected draft left in it and what is beyond a layer's window: nothing of
    that may reach the logits."""
    model = make(CONFIGS[name])
    lean, graphed = LeanNetwork(model, draft_ids), Replayed(model, draft_ids)
    for network in (lean, graphed):
        network.read([*TOKENS, 31, 32, 33])
        network.crop(len(TOKENS))
    for token in range(5, 15):
        torch.testing.assert_close(graphed.read([token]), lean.read([token]))
    assert graphed.length == lean.length == len(TOKENS) + 10
    assert graphed.captures == 1


def test_grown_cache_is_captured_anew(target_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent a graph from writing to the cache that was replaced."""
    monkeypatch.setattr("drafter_trainer.drafters.loop.network._FIRST_CAPACITY", 8)
    lean, graphed = LeanNetwork(target_model), Replayed(target_model)
    for token in (*TOKENS, 1, 2):
        torch.testing.assert_close(graphed.read([token]), lean.read([token]))
    assert graphed.captures == 3  # 8, 16, 32


def test_failed_capture_is_said_once_and_changes_nothing(target_model: PreTrainedModel) -> None:
    """Where there is no graph, users must learn why their drafter is slower than the card says."""
    graphed, lean = GraphedNetwork(target_model), LeanNetwork(target_model)
    graphed.read(TOKENS), lean.read(TOKENS)
    with pytest.warns(UserWarning, match="cannot be captured and is launched in pieces: .*cuda"):
        logits = graphed.read([12])
    torch.testing.assert_close(logits, lean.read([12]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(graphed.read([200]), lean.read([200]))
