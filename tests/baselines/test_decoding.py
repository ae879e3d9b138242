"""Decoding with baselines: the target's greedy output, the target's distribution, and the right rounds."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.eagle import EagleLayer
from benchmarks.baselines.lookahead import LookaheadDecoding
from benchmarks.baselines.medusa import MedusaHeads
from benchmarks.baselines.tree import Tree
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.loop.generate import set_draft_length
from drafter_trainer.errors import InputError
from tests.baselines.conftest import exact_heads, exact_layer, make_eagle, make_medusa, noisy
from tests.decoding.drafts import CHAIN_LOGITS, COUNTING, SIZE, chain, check_chain, sliding_model, successor_model
from tests.decoding.lossless import PROMPTS, TOY_SIZE, check_sampled

TOKENS = 20


class ExactTree(TreeDecoding):
    """Draft the target's own tokens, each after a wrong sibling."""

    draft_length = 3

    def __init__(self, text: list[int]) -> None:
        super().__init__()
        self._text = text

    def draft(self, known: list[int], longest: int) -> Tree:
        tree, node = Tree(known[-1]), 0
        for token in self._text[len(known) : len(known) + min(longest, self.draft_length)]:
            tree.add((token + 1) % 400, node)
            node = tree.add(token, node)
        return tree


def baselines(target_model: PreTrainedModel) -> dict[str, TreeDecoding]:
    width = target_model.config.hidden_size
    torch.manual_seed(0)
    return {
        "lookahead": LookaheadDecoding(window=4, ngram=3, guesses=3),
        "medusa": make_medusa(target_model, noisy(MedusaHeads(3, width), 0.1)),
        "eagle": make_eagle(target_model, EagleLayer(target_model.config).eval()),
    }


@pytest.mark.parametrize("kind", ["lookahead", "medusa", "eagle"])
def test_greedy_output_is_the_targets(target_model: PreTrainedModel, kind: str) -> None:
    """A wrong mask, position or cache entry would verify another text."""
    method = {"custom_generate": baselines(target_model)[kind]}
    for prompt in PROMPTS[:3]:
        plain = decode(target_model, prompt, {}, 0.0, 0, TOKENS).output_ids
        assert decode(target_model, prompt, method, 0.0, 0, TOKENS).output_ids == plain
        for end in (plain[0], plain[3], plain[8]):  # the output ends within a draft
            drafted = decode(target_model, prompt, method | {"eos_token_id": end}, 0.0, 0, TOKENS)
            assert drafted.output_ids == plain[: plain.index(end) + 1]


@pytest.mark.parametrize("kind", ["lookahead", "medusa", "eagle", "exact"])
@pytest.mark.parametrize("given", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}], ids=str)
def test_processors_see_the_path_to_each_node(target_model: PreTrainedModel, kind: str, given: dict[str, Any]) -> None:
    """A processor must read the text of each node, not that of its siblings."""
    ids = torch.tensor([PROMPTS[2]])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": TOKENS, "do_sample": False} | given
    plain = target_model.generate(ids, **settings)
    decoding = ExactTree(plain[0].tolist()) if kind == "exact" else baselines(target_model)[kind]
    assert torch.equal(target_model.generate(ids, custom_generate=decoding, **settings), plain)
    if kind == "exact":
        assert decoding.rounds[1] == Round(3, 3, rejected=False)


def test_right_path_of_a_tree_is_accepted(target_model: PreTrainedModel) -> None:
    """A pass over a tree yields its depth plus one token; the kept cache entries are not adjacent."""
    for prompt in PROMPTS[:2]:
        plain = decode(target_model, prompt, {"eos_token_id": None}, 0.0, 0, 1 + 4 * 4).output_ids
        given = {"custom_generate": ExactTree([*prompt, *plain]), "eos_token_id": None}
        decoding = decode(target_model, prompt, given, 0.0, 0, 1 + 4 * 4)
        assert decoding.output_ids == plain
        assert decoding.rounds == [Round(0, 0, False), *4 * [Round(3, 3, False)]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_exact_heads_yield_their_depth_plus_one(temperature: float) -> None:
    """An off-by-one error between a head and the position of its draft loses every token."""
    target_model = successor_model(COUNTING)
    medusa = make_medusa(target_model, exact_heads(COUNTING))
    for decoding in (medusa, make_eagle(target_model, exact_layer(target_model))):
        decoded = decode(target_model, [3, 4, 5], {"custom_generate": decoding}, temperature, 0, 1 + 4 * 5)
        assert decoded.output_ids == [(6 + number) % SIZE for number in range(21)]
        assert decoded.rounds == [Round(0, 0, False), *5 * [Round(3, 3, False)]]


def test_trees_need_attention_to_the_whole_text() -> None:
    """The cache of a sliding window drops entries that a tree still needs, and the output would change."""
    target_model = sliding_model(50, ["sliding_attention", "full_attention"])
    method = {"custom_generate": LookaheadDecoding(3, 3, 3)}
    expected = decode(target_model, [5, 6], {}, 0.0, 0, 4).output_ids
    assert decode(target_model, [5, 6], method, 0.0, 0, 4).output_ids == expected
    with pytest.raises(InputError, match="gemma3_text has layers that do not attend to all of 7 tokens"):
        decode(target_model, [5, 6], method, 0.0, 0, 5)


# Early exit, which is transformers' own


@pytest.mark.parametrize("agrees", [True, False])
def test_early_exit_is_greedy_and_its_rounds_are_counted(target_model: PreTrainedModel, agrees: bool) -> None:
    """Drafts are passes of the target's own module, and must not count as verification passes."""
    if agrees:  # the last two layers have no effect
        with torch.no_grad():
            for layer in target_model.model.layers[2:]:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    for prompt in PROMPTS[:2]:
        plain = decode(target_model, prompt, {"eos_token_id": None}, 0.0, 0, 16).output_ids
        set_draft_length(target_model.generation_config, 3)
        given = {"assistant_early_exit": 2, "eos_token_id": None}
        decoding = decode(target_model, prompt, given, 0.0, 0, 16)
        assert decoding.output_ids == plain
        assert target_model.config.num_hidden_layers == 4
        if agrees:
            assert decoding.rounds == 4 * [Round(3, 3, False)]
        assert sum(round_.accepted for round_ in decoding.rounds) + len(decoding.rounds) in (16, 17)


def test_early_exit_samples_the_targets_distribution() -> None:
    """Drafts of the target's first layers must be verified with their own q."""
    torch.manual_seed(9)
    config = {"vocab_size": TOY_SIZE, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 1}
    target_model = LlamaForCausalLM(LlamaConfig(**config, pad_token_id=0, max_position_embeddings=512)).eval()
    set_draft_length(target_model.generation_config, 2)
    check_sampled(target_model, {"assistant_early_exit": 1})


# Sampling: the steps of a chain with a known distribution.


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["lookahead", "eagle"])
def test_sampled_steps_have_the_targets_distribution(kind: str, temperature: float) -> None:
    """An acceptance rule that is nearly right changes the distribution, which no single output shows."""
    target_model, decoding = chain(CHAIN_LOGITS), LookaheadDecoding(window=3, ngram=3, guesses=3)
    if kind == "eagle":
        decoding = make_eagle(target_model, noisy(exact_layer(target_model), 0.15))
    check_chain({"custom_generate": decoding}, temperature, 800)
