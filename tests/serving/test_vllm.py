"""The proposer as vLLM calls it, without vLLM."""

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.hub.export.engines import export_drafter
from drafter_trainer.serving.vllm import DrafterProposer
from drafter_trainer.targets import Target
from tests.drafters.loop.conftest import CPU, describe, make_settings, replace_file
from tests.drafters.loop.test_kv_sharing import cache_of
from tests.drafters.test_load import swap_two_tokens
from tests.hub.conftest import publish_compact
from tests.processes import Running, run_source
from tests.serving.test_target_cache import PagedTarget

CONTEXT = 64


def make_config(target: Target, options: dict[str, Any]) -> SimpleNamespace:
    """The parts of vLLM's configuration that the proposer reads."""
    model = SimpleNamespace(
        max_model_len=CONTEXT,
        tokenizer=target.path,
        tokenizer_revision=None,
        dtype=torch.float32,
        get_vocab_size=lambda: 400,
        try_get_generation_config=lambda: {"eos_token_id": [2, 7]},
        hf_text_config=SimpleNamespace(eos_token_id=2),
    )
    return SimpleNamespace(
        additional_config=options,
        speculative_config=SimpleNamespace(num_speculative_tokens=4),
        model_config=model,
        device_config=SimpleNamespace(device=CPU),
        scheduler_config=SimpleNamespace(max_num_seqs=8),
    )


def propose(proposer: DrafterProposer, texts: list[list[int]], sampled: list[list[int]]) -> list[list[int]]:
    """Call the proposer with rows in vLLM's buffers, which have other tokens after each text."""
    buffer = np.full((len(texts), CONTEXT), 399, dtype=np.int32)
    for row, text in enumerate(texts):
        buffer[row, : len(text)] = text
    return proposer.propose(sampled, np.array([len(text) for text in texts]), buffer, slot_mappings=None)


def make_proposer(target: Target, drafter: Path, target_model: Any = None, **options: Any) -> DrafterProposer:
    """Make a proposer that has loaded a drafter, and drafts by stored costs."""
    options = {"drafter": str(drafter), "drafter_follow_clock": False} | options
    config = make_config(target, options)
    proposer = DrafterProposer(target_model.config(**vars(config)) if hasattr(target_model, "config") else config)
    proposer.load_model(target_model)
    return proposer


@pytest.fixture
def proposer(published: Path, target: Target) -> DrafterProposer:
    return make_proposer(target, published)


def test_whole_drafter_is_loaded(proposer: DrafterProposer, published: Path) -> None:
    """A source that is left out silently costs speed, and nobody notices."""
    drafter = proposer._drafter
    assert drafter.network.slots == 8
    assert drafter.network.limit == CONTEXT
    assert drafter.network.draft_ids.tolist() == read_vocabulary(published / VOCABULARY, 400).tolist()
    assert drafter.table.orders == [3, 2, 1]
    assert drafter._end_ids == {2, 7}


def test_drafts_keep_within_vllms_bounds(proposer: DrafterProposer) -> None:
    """vLLM verifies at most k tokens, none while a prompt is being read, and none beyond the context."""
    repeated = [5, 6, 8, 9] * 5
    drafts = propose(proposer, [repeated, repeated, [*repeated * 3, 5, 6], repeated[:7]], [[9], [], [6], [8]])
    assert 0 < len(drafts[0]) <= 4
    assert drafts[1] == []
    assert len(drafts[2]) <= CONTEXT - 62 - 1
    assert 0 < len(drafts[3]) <= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "additional_config has no drafter"),
        ({"drafter": "x", "drafter_slots": 3}, "additional_config has drafter_slots, expected drafter,"),
        ({"drafter": "x", "drafter_cache_gib": "much"}, "drafter_cache_gib must be a number of GiB"),
        ({"drafter": "x", "drafter_memory": True}, "drafter_memory must be a file"),
        ({"drafter": "x", "drafter_memory": "m", "drafter_memory_tokens": 9}, "must be 1024 or more, got 9"),
        ({"drafter": "runs/missing-drafter"}, "runs/missing-drafter is neither a folder nor a published drafter"),
    ],
)
def test_wrong_options_are_errors(target: Target, options: dict[str, Any], message: str) -> None:
    """vLLM takes minutes to start; a wrong option must end it at once."""
    with pytest.raises(InputError, match=message):
        DrafterProposer(make_config(target, options))


def test_other_tokenizer_is_rejected(proposer: DrafterProposer, target: Target, tmp_path: Path) -> None:
    """A drafter of another tokenizer drafts garbage at full cost."""
    (tmp_path / "target").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "target" / name).write_bytes((Path(target.path) / name).read_bytes())
    swap_two_tokens(tmp_path / "target")
    proposer._config.model_config.tokenizer = str(tmp_path / "target")
    with pytest.raises(IncompatibleTokenizerError):
        proposer.load_model(None)


def test_compact_drafter_shares_the_targets_embeddings(tokenizer, target, target_model, tmp_path) -> None:
    """A compact drafter must draft like its stock repository, or fail with advice if embeddings are split."""
    compact, embeddings = publish_compact(tmp_path, tokenizer, target), target_model.get_input_embeddings().weight
    describe(compact, loop=make_settings(sources=["network"]).to_dict())
    export_drafter(str(compact), target, output_dir=tmp_path / "export", engines=["vllm"])

    def in_vllm(weight: torch.Tensor) -> SimpleNamespace:
        layer = SimpleNamespace(weight=weight)
        return SimpleNamespace(model=SimpleNamespace(embed_tokens=layer), lm_head=layer)

    padded = torch.nn.functional.pad(embeddings.detach(), (0, 0, 0, 48))  # vLLM's rows are a multiple of 64
    drafted = []
    for drafter in (compact, tmp_path / "export" / "drafter"):
        proposer = make_proposer(target, drafter, in_vllm(padded))
        drafted.append(propose(proposer, [list(range(20, 40)), list(range(90, 99))], [[39], [98]]))
    assert drafted[0] == drafted[1]
    assert all(drafted[0])
    with pytest.raises(InputError, match=r"cannot be shared \(200 of 400 rows .* write its stock repository"):
        make_proposer(target, compact, in_vllm(embeddings[:200]))


def test_proposer_shares_the_targets_keys(published, target, target_model, tmp_path, monkeypatch) -> None:
    """A drafter that was trained with the target's keys is accepted less without those of this step."""
    drafter = tmp_path / "drafter"
    shutil.copytree(published, drafter)
    settings = json.loads((drafter / "config.json").read_text(encoding="utf-8")) | {"kv_sharing_layers": [0, 1, 2, 3]}
    replace_file(drafter, "config.json", json.dumps(settings).encode())
    paged = PagedTarget(target_model, monkeypatch)
    proposer = make_proposer(target, drafter, paged)
    text = [*range(20, 45)]
    paged.step([text, text[:9]])
    assert all(propose(proposer, [text, text[:9]], [[44], [28]]))
    network, expected = proposer._drafter.network, cache_of(target_model, text[:-1])
    slot = proposer._drafter._rows[0].slot
    for keys, layer in zip(network._keys, expected.layers):
        torch.testing.assert_close(keys[slot, :, : len(text) - 1], layer.keys[0], atol=1e-5, rtol=0)
    paged.step([[*text, 5]])
    propose(proposer, [[*text, 5]], [[5]])
    assert proposer._drafter._rows[0].shared == len(text)


def test_small_memory_leaves_lookup_and_table(published: Path, target: Target) -> None:
    """An engine without memory for the network must still serve."""
    proposer = make_proposer(target, published, drafter_cache_gib=1e-9)
    assert proposer._drafter.network is None
    assert propose(proposer, [[5, 6, 8, 9] * 3], [[9]])[0] != []


def modules_of_serving() -> list[str]:
    """Return what an engine imports."""
    import sys

    import drafter_trainer.serving.engines
    import drafter_trainer.serving.vllm  # noqa: F401

    return sorted(sys.modules)


def test_serving_imports_nothing_of_training() -> None:
    """An engine's environment lacks the libraries of training, and has an older transformers."""
    source, name = inspect.getsource(modules_of_serving), modules_of_serving.__name__
    modules = json.loads(Running(run_source, source, name, "{}").result())
    ours = {name.split(".")[1] for name in modules if name.startswith("drafter_trainer.")}
    leaves = {"atomic", "chat", "errors", "extras", "languages", "results", "wheels"}
    assert ours <= leaves | {"decoding", "drafters", "serving", "targets"}
    assert "peft" not in modules


def test_memory_outlives_the_server(published, target, tmp_path, monkeypatch) -> None:
    """The memory must be loaded again at the next start; without the option there is none."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path = tmp_path / "memory.safetensors"
    text, drafts = [*range(10, 40)], []
    for _ in range(2):
        proposer = make_proposer(target, published, drafter_memory=str(path))
        drafts.append(propose(proposer, [text[:6]], [[15]])[0])
        propose(proposer, [text], [text[6:]])
        propose(proposer, [[7, 8]], [[8]])
        assert proposer._memory.added == 24
        now[0] += 61
        propose(proposer, [[7, 8]], [[8]])
    assert drafts[0] != drafts[1] == text[6:10]
    assert make_proposer(target, published)._drafter.memory is None
