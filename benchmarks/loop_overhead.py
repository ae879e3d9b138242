"""Measure what a drafting loop takes beside the network's forwards, for each drafted token: this loop, the stock loop.

    python benchmarks/loop_overhead.py --target FOLDER --drafter FOLDER [--prompts 8] [--out FILE.json]

Both loops draft with the same network for the same target on the sample's test questions, greedily, prompt by prompt
in turns. Of the time of the drafter's `generate` that of its forwards is taken off, and what is left is divided by the
tokens drafted. Lookup and tables are left out: only the network drafts in both.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.drafters.load import load_drafter, with_sources, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.targets import encode_prompt


@dataclasses.dataclass
class Watch:
    """Add up the time of calls."""

    seconds: float = 0.0

    def around(self, function):
        """Wrap a function so that its time is added."""

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


@dataclasses.dataclass
class Overhead:
    """Watch one drafter."""

    drafter: PreTrainedModel
    tokens: int = 0
    calls: Watch = dataclasses.field(default_factory=Watch)
    forwards: Watch = dataclasses.field(default_factory=Watch)

    def __post_init__(self) -> None:
        generate = self.calls.around(self.drafter.generate)

        def counted(input_ids, **kwargs):
            output = generate(input_ids=input_ids, **kwargs)
            self.tokens += output.sequences.shape[1] - input_ids.shape[1]
            return output

        self.drafter.generate = counted

    def milliseconds(self) -> float:
        """Return the time beside the forwards, for each drafted token."""
        return 1000 * (self.calls.seconds - self.forwards.seconds) / self.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, help="Hub id or folder")
    parser.add_argument("--drafter", required=True, help="Hub id or folder of a published drafter")
    parser.add_argument("--pair", default="de-en")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--draft_length", type=int, default=4, help="of the stock loop")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.target)
    target = AutoModelForCausalLM.from_pretrained(options.target).eval()
    drafter = load_drafter(options.drafter, target, tokenizer)
    here = Overhead(with_sources(drafter, ["network"]))
    network = loop_of(here.drafter).network
    network.read = here.forwards.around(network.read)
    stock = Overhead(with_stock_loop(drafter, options.draft_length))
    stock.drafter.forward = stock.forwards.around(stock.drafter.forward)
    for question in load_questions("sample", get_pair(options.pair), options.prompts):
        ids = torch.tensor([encode_prompt(tokenizer, question.prompt)])
        for watched in (here, stock):
            target.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=watched.drafter,
                do_sample=False,
                max_new_tokens=64,
            )
    result = {
        "this_loop_milliseconds": here.milliseconds(),
        "stock_loop_milliseconds": stock.milliseconds(),
        "ratio": here.milliseconds() / stock.milliseconds(),
        "drafted": {"this_loop": here.tokens, "stock_loop": stock.tokens},
        "provenance": collect_provenance(),
    }
    print(f"this loop  {here.milliseconds():.3f} ms a drafted token beside its forwards ({here.tokens} tokens)")
    print(f"stock loop {stock.milliseconds():.3f} ms ({stock.tokens} tokens)")
    print(f"ratio      {result['ratio']:.3f}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
