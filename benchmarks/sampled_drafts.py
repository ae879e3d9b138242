"""Expected α of sampled drafts by their temperature, and by the window of the prompt.

    python benchmarks/sampled_drafts.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/sampled-*/distill --network runs/gemma-3-270m-drafter-de-en/finetune

Expected α is Σ min(p, q) over the target's top 20, teacher-forced on held-out completions at T = 1, without a clock.
First, q is the network's distribution at each draft temperature, with the target's keys. Then q is the distribution at
draft temperature 1 without the target's keys, for each number of prompt tokens that the network reads.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS, report
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.decoding.metrics import expected_alpha
from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.drafters.vocabulary import map_ids
from drafter_trainer.training.collators import NOT_PREDICTED, SelfDistilledCollator, supervised_tokens
from drafter_trainer.training.kv_sharing import TargetReader, keep_windows, share_keys
from drafter_trainer.training.rows import load_rows

BATCH, MAX_LENGTH = 8, 512
TEMPERATURES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5)
WINDOWS = (16, 64, 128, 256, 0)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Of the target")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="At T = 1; the held-out ones are read")
    parser.add_argument("--network", type=Path, required=True, help="Folder of a finetuned drafter that shares keys")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    rows = load_rows([folder / "validation" for folder in options.rows], target)
    rows = [row for row in rows if len(row["prompt_ids"]) + len(row["response_ids"]) <= MAX_LENGTH]
    drafter = AutoModelForCausalLM.from_pretrained(options.network, dtype=torch.bfloat16)
    draft_ids = read_vocabulary(options.network / VOCABULARY, drafter.config.vocab_size)
    reader = TargetReader(target.load_model("bfloat16"), drafter.config.kv_sharing_layers)
    collate = SelfDistilledCollator(target.load_tokenizer().pad_token_id, MAX_LENGTH, 0)
    batches = [collate(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]

    @torch.inference_mode()
    def measure(prepare: Callable[[dict], dict[str, Any]], temperatures: tuple[float, ...]) -> list[float]:
        """Return the mean expected α at each draft temperature."""
        found: list[list[torch.Tensor]] = [[] for _ in temperatures]
        for batch in tqdm(map(prepare, batches), total=len(batches)):
            supervised, tokens = supervised_tokens(batch)
            read = {name: batch[name] for name in NOT_PREDICTED if name in batch}
            logits = drafter(**read, use_cache=False).logits[:, :-1][supervised][:, draft_ids].float()
            known = map_ids(tokens["topk_ids"], draft_ids), tokens["topk_logprobs"]
            for values, temperature in zip(found, temperatures):
                values.append(expected_alpha(logits / temperature, *known))
        return [torch.cat(values).mean().item() for values in found]

    def behind_keys(batch: dict) -> dict[str, Any]:
        return share_keys(batch, reader, torch.zeros(len(batch["input_ids"]), dtype=torch.long))

    figures = [
        {"draft temperature": temperature, "prompt tokens read": "the target's keys", "expected alpha": value}
        for temperature, value in zip(TEMPERATURES, measure(behind_keys, TEMPERATURES))
    ]
    for window in WINDOWS:
        value = measure(lambda batch, window=window: keep_windows(batch, window or None), (1.0,))[0]
        figures.append({"draft temperature": 1.0, "prompt tokens read": window or "all", "expected alpha": value})
    tokens = sum(len(row["response_ids"]) for row in rows)
    report("sampled_drafts", figures, {"completions": len(rows), "tokens": tokens}, options.out)


if __name__ == "__main__":
    main()
