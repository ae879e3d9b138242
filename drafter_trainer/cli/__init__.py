"""The command `drafter-trainer STEP [--config FILE] [--OPTION VALUE ...]`."""

import difflib
import importlib
import sys
from collections.abc import Callable

STEPS = {
    "distill": "Make training rows: let a target complete prompts, or score text",
    "pretrain": "Pretrain a drafter on text and conversations",
    "finetune": "Finetune a drafter on the target's completions",
    "adapt": "Train a published drafter further for a finetuned or quantized target",
    "tune": "Find the fastest draft lengths, n-gram table and draft vocabulary on this machine",
    "bench": "Measure a drafter against plain decoding, prompt lookup and other baselines",
    "publish": "Publish a drafter, or its rows, to the Hub or to a folder",
    "export": "Write the files that vLLM, SGLang and llama.cpp need for a drafter",
    "serve": "Serve a target with its drafter in vLLM or llama.cpp",
    "language": "Run all steps for one language: try all strategies, and publish the fastest drafter",
    "predict": "Forecast the speedup of a drafter on this machine before training it",
    "compare": "Compare two results.json: which methods became faster or slower",
    "report": "Render the report of a results.json again",
    "gallery": "Render all measured drafters as one page",
    "cards": "Render the cards of a folder of drafters again",
}
_PAGES = ("compare", "report", "gallery", "cards")


def find_step(name: str) -> Callable[..., None]:
    """Import the function that runs a step; some steps import libraries that take seconds."""
    if name in _PAGES:
        return getattr(importlib.import_module("drafter_trainer.cli.pages"), name)
    return importlib.import_module(f"drafter_trainer.cli.{name}").main


def main() -> None:
    """Run the step in the first argument of the command line."""
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, STEPS))
        steps = "\n".join(f"  {step:<{width}}  {line}" for step, line in STEPS.items())
        sys.stdout.write(
            "usage: drafter-trainer STEP [--config FILE] [--OPTION VALUE ...]\n\n"
            f"{steps}\n\ndrafter-trainer STEP --help lists the options of a step.\n"
        )
        return
    if name not in STEPS:
        close = difflib.get_close_matches(name, STEPS, n=1)
        advice = f"did you mean {close[0]}?" if close else "drafter-trainer --help lists the steps"
        sys.stderr.write(f"error: unknown step {name}: {advice}\n")
        sys.exit(2)
    from drafter_trainer.cli.launch import run_step

    run_step(find_step(name), argv)
