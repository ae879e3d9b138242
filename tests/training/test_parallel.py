"""Masks of parallel drafting: each predicts what it will be asked for, from what it will see then."""

import copy

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from drafter_trainer.errors import InputError
from drafter_trainer.training.collators import SelfDistilledCollator, supervised_tokens
from drafter_trainer.training.parallel import add_masks, check_attention, choose_mask_id

MASK = 39
SHAPE = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
ROWS = [
    {
        "prompt_ids": prompt,
        "response_ids": response,
        "topk_ids": [[token, 38] for token in response],
        "topk_logprobs": [[-0.1 * place, -3.0] for place in range(len(response))],
    }
    for prompt, response in (([5, 6, 7], [8, 9, 10, 11, 12]), ([3], [4, 2]), ([5, 6], []))
]


def make_models() -> list[torch.nn.Module]:
    """Return a model whose layers all see everything and one with windows longer than the rows."""
    torch.manual_seed(0)
    gemma = Gemma3TextConfig(**SHAPE, sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    return [LlamaForCausalLM(LlamaConfig(**SHAPE)).eval(), Gemma3ForCausalLM(gemma).eval()]


@pytest.mark.parametrize("model", make_models(), ids=["llama", "gemma"])
def test_a_mask_predicts_what_it_does_when_drafting(model: torch.nn.Module) -> None:
    """Prevent masks that see later text or other masks, stand at a wrong position, or predict another token."""
    batch = add_masks(SelfDistilledCollator(0, 32)(ROWS), 4, MASK, keep=1.0)
    with torch.no_grad():
        read = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        logits = model(**read, use_cache=False).logits
        supervised, tokens = supervised_tokens(batch)
        logprobs = tokens["topk_logprobs"][:, 0].tolist()
        found = list(zip(logits[:, :-1][supervised], tokens["labels"].tolist(), logprobs))
        expected = []
        for row in ROWS:
            text = [*row["prompt_ids"], *row["response_ids"]]
            for known in range(len(row["prompt_ids"]), len(text)):
                drafted = model(input_ids=torch.tensor([text[:known] + [MASK] * 3])).logits[0, known - 1 :]
                for logit, place in zip(drafted, range(known, len(text))):
                    expected.append((logit, text[place], row["topk_logprobs"][place - len(row["prompt_ids"])][0]))
    assert len(found) == len(expected) == 5 + 4 + 3 + 2 + 2 + 1
    for logit, label, logprob in found:  # in another order
        alike = [e for e in expected if e[1] == label and torch.allclose(e[0], logit, atol=1e-5)]
        assert alike
        assert logprob == pytest.approx(alike[0][2])


def test_a_share_of_the_masks_stays() -> None:
    """Prevent rows that become as many times as long as tokens are drafted, and masks whose first ones are gone."""
    torch.manual_seed(1)
    rows = [{"prompt_ids": [1], "response_ids": [2] * 400}]
    batch = add_masks(SelfDistilledCollator(0, 500)(rows), 4, MASK, keep=0.5)
    masks = (batch["input_ids"][0] == MASK).nonzero()[:, 0]
    seen = batch["attention_mask"][0, 0][masks][:, masks].sum(dim=1)  # a mask and those before it
    assert [int((seen == depth).sum()) for depth in (1, 2, 3)] == pytest.approx([200, 100, 50], abs=40)


def test_the_mask_token_stands_for_nothing(tokenizer) -> None:
    """Prevent a mask that a text may hold."""
    tokenizer = copy.deepcopy(tokenizer)
    assert choose_mask_id(tokenizer, len(tokenizer) + 8) == len(tokenizer)
    with pytest.raises(InputError, match="no mask token, no unused token and no padded id"):
        choose_mask_id(tokenizer, len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<unused0>", "<|reserved_special_token_0|>"]})
    assert tokenizer.convert_ids_to_tokens(choose_mask_id(tokenizer, len(tokenizer))) == "<unused0>"
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert choose_mask_id(tokenizer, len(tokenizer)) == tokenizer.mask_token_id


def test_attention_that_cannot_follow_masks_is_refused() -> None:
    """Prevent a window of the attention from being lost, where rows are longer than it."""
    config = make_models()[1].config
    check_attention(config, 16)
    with pytest.raises(InputError, match="window of 16, got 17"):
        check_attention(config, 17)
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="flash_attention_2"):
        check_attention(config, 16)
