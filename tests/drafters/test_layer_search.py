"""Search of the layers of a target from which its drafter should start."""

import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.drafters.layer_search import search_layers
from drafter_trainer.errors import InputError
from tests.conftest import make_model, tiny_model

LAYERS = 5


@pytest.fixture(params=["llama", "gemma3"])
def target_model(request: pytest.FixtureRequest, tokenizer) -> PreTrainedModel:
    if request.param == "llama":
        model = make_model(tokenizer, layers=LAYERS)
    else:
        kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
        given = {"vocab_size": len(tokenizer), "num_hidden_layers": LAYERS, "layer_types": kinds}
        model = tiny_model("gemma3_text", **given, initializer_range=0.02)
    for layer in (1, 3):  # nothing is added to what they are given
        for matrix in (model.model.layers[layer].self_attn.o_proj, model.model.layers[layer].mlp.down_proj):
            torch.nn.init.zeros_(matrix.weight)
    return model


def greedy_rows(model: PreTrainedModel) -> list[dict[str, list[int]]]:
    rows = []
    for prompt in ([5, 6, 7, 8], [20, 21], [30, 31, 32, 33, 34, 35]):
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None)[0].tolist()
        rows.append({"prompt_ids": prompt, "response_ids": ids[len(prompt) :]})
    return rows


def test_layers_that_do_nothing_go_first_and_the_target_stays_whole(target_model: PreTrainedModel) -> None:
    """Prevent layers that matter from being removed, and a search from leaving the target without its layers."""
    rows = greedy_rows(target_model)
    layers, config = list(target_model.model.layers), target_model.config.to_dict()
    before = target_model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert search_layers(target_model, rows, 3, batch_size=2) == [0, 2, 4]
    assert search_layers(target_model, rows, LAYERS) == [0, 1, 2, 3, 4]
    assert list(target_model.model.layers) == layers
    assert target_model.config.to_dict() == config
    assert torch.equal(target_model(input_ids=torch.tensor([[5, 6, 7]])).logits, before)


def test_bad_searches_are_rejected(target_model: PreTrainedModel) -> None:
    """An empty comparison would choose layers by nothing."""
    with pytest.raises(InputError, match="has 5 layers to choose from"):
        search_layers(target_model, greedy_rows(target_model), 6)
    with pytest.raises(InputError, match="no rows with a prompt and a completion"):
        search_layers(target_model, [{"prompt_ids": [5], "response_ids": []}], 2)
