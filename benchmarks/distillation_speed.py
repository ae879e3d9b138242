"""Tokens per second in distillation: this engine, the engine in float32 with full-width sampling, and `generate`.

    python benchmarks/distillation_speed.py --config recipes/configs/gemma-3-270m/de-en.yaml --corpus file:text.jsonl

All three have the same prompts, length limit and temperatures. `this engine` runs in the configuration's dtype and
finds the top 20 and the next token block by block. `full width` is the engine in float32, with a top k, a softmax and
a cumulative sum over the whole vocabulary. `generate` decodes batches of the same size in the order of the corpus, in
float32, without log-probabilities. After a warm-up, the three take turns until all prompts are completed. In a turn,
an engine finishes a batch of completions, and `generate` decodes one batch. At the end, more and more rows of an
engine's batch are empty. This time counts too, so it weighs more with fewer prompts.
"""

import argparse
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from reporting import RESULTS, report
from tqdm.auto import tqdm

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import load_decontaminator
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.distillation import batching
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import PromptMaker, load_prompts, write_prompts
from drafter_trainer.distillation.requests import Completion, Request, Requests
from drafter_trainer.languages import get_pair


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="recipes/configs/gemma-3-270m/de-en.yaml", help="Of target and pair")
    parser.add_argument("--corpus", default="sample", help="Corpus of sentences, as distill.py names it")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (run, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    pair, target = get_pair(run.pair), where.resolve()
    chat = target.load_chat()
    tokenizer = chat.tokenizer
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = target.load_model("float32", device)
    sentences = read_sentences(options.corpus, pair, "train")
    prompts = PromptMaker(chat, load_decontaminator([], pair), options.prompts).translations(
        sentences, options.corpus, pair
    )
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(prompts, Path(folder) / "prompts.arrow", Counter())
        table, _ = load_prompts(Path(folder) / "prompts.arrow")
        requests = Requests(table, options.temperatures, 1, 0, options.max_new_tokens, pair, target)
        sorted_batches, asked = list(requests.batches(options.batch_size)), list(requests)
    engine = TransformersEngine(target.load_model(where.dtype, device), tokenizer.pad_token_id)
    full_width = FullWidthEngine(model, tokenizer.pad_token_id)
    in_order = {row["source_id"]: number for number, row in enumerate(table.to_pylist())}
    unsorted = sorted(asked, key=lambda request: (request.temperature, in_order[request.source_id]))
    unsorted = [unsorted[start : start + options.batch_size] for start in range(0, len(unsorted), options.batch_size)]

    def answers_of_engine(engine: TransformersEngine, batches: list[list[Request]]) -> Iterator[tuple[int, int]]:
        for group, answers in engine.complete(batches):
            yield len(group), sum(len(answer.completion_ids) for answer in answers)

    def generate_answers(batches: list[list[Request]]) -> Iterator[tuple[int, int]]:
        for batch in batches:
            yield len(batch), generate(batch)

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
        # Up to the first end token, including it.
        return int(((ends.cumsum(dim=-1) - ends.long()) == 0).sum())

    ways = {
        f"this engine, {where.dtype}": (functools.partial(answers_of_engine, engine), sorted_batches),
        "full width, float32": (functools.partial(answers_of_engine, full_width), sorted_batches),
        "generate, float32, in the corpus' order": (generate_answers, unsorted),
    }
    torch.manual_seed(0)
    for answers_of, batches in ways.values():
        list(answers_of([batches[0][:4]]))
    under_way = {name: answers_of(batches) for name, (answers_of, batches) in ways.items()}
    seconds, answers, tokens = Counter(), Counter(), Counter()
    with tqdm(total=len(ways) * len(asked), unit="answer") as bar:
        while under_way:
            for name in [*under_way]:
                start = time.perf_counter()
                ended = next(under_way[name], None)
                seconds[name] += time.perf_counter() - start
                if ended is None:
                    del under_way[name]
                    continue
                answers[name] += ended[0]
                tokens[name] += ended[1]
                bar.update(ended[0])
    figures = [
        {
            "method": name,
            "answers": answers[name],
            "tokens": tokens[name],
            "seconds": seconds[name],
            "answers/s": answers[name] / seconds[name],
            "tokens/s": tokens[name] / seconds[name],
        }
        for name in ways
    ]
    rates = [entry["tokens/s"] for entry in figures]
    ratios = {"this engine / full width (bar 2.5)": rates[0] / rates[1], "this engine / generate": rates[0] / rates[2]}
    report("distillation_speed", figures, ratios, options.out)


def choose_at_full_width(
    logits: torch.Tensor, temperatures: Sequence[float], noise: Sequence[float], k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose tokens by full-width operations, as a comparison."""
    logits = logits.float()
    values, ids = logits.topk(k, dim=-1)
    logprobs = values - logits.logsumexp(dim=-1, keepdim=True)
    tokens = logits.argmax(dim=-1)
    sampled = [row for row, temperature in enumerate(temperatures) if temperature]
    if sampled:
        heat = torch.tensor([temperatures[row] for row in sampled])[:, None]
        sums = (logits[sampled] / heat).softmax(dim=-1).cumsum(dim=-1)
        places = torch.tensor([noise[row] for row in sampled])[:, None] * sums[:, -1:]
        tokens[sampled] = torch.searchsorted(sums, places, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens, ids, logprobs


class FullWidthEngine(TransformersEngine):
    """The engine with `choose_at_full_width`, set only during its own steps: other engines run in between."""

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[list[Request], list[Completion]]]:
        completions, own = super().complete(batches), batching.choose_tokens
        while True:
            batching.choose_tokens = choose_at_full_width
            group = next(completions, None)
            batching.choose_tokens = own
            if group is None:
                return
            yield group


if __name__ == "__main__":
    main()
