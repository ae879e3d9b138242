"""Compare the tokens per target pass of the whole drafter in vLLM and in transformers' loop, without a clock.

    python benchmarks/vllm_rounds.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --drafter hub_cards/gemma-3-270m-drafter-de-en --questions questions.jsonl --engine_python VLLM/bin/python

Both use a copy of the drafter with costs at which nearly every token is drafted, so that each round drafts
`--draft_length` tokens on any machine and in any batch; `--stored_costs` keeps the costs that tuning stored. The loop
completes one question after another, vLLM with 1 and with 4 requests at once. Decoding is greedy, in float32. The
passes over the prompts count. vLLM yields one token in this pass; the loop also verifies its first draft, which was
made without the target's keys and values. So the later passes are also compared separately.
"""

import argparse
import json
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from reporting import RESULTS, report

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.languages import get_pair
from drafter_trainer.serving.client import VLLM, Workload, measure_server
from drafter_trainer.serving.commands import vllm_command, vllm_config
from drafter_trainer.serving.engines import start_engine
from drafter_trainer.targets import Target

AT_ONCE = (1, 4)
CACHE_BYTES = 1 << 30


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Of the target and the pair")
    parser.add_argument("--drafter", type=Path, required=True, help="Folder of a published drafter")
    parser.add_argument("--questions", required=True, help="Question set, as bench.py names it")
    parser.add_argument("--max_questions", type=int, default=24)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--draft_length", type=int, default=5)
    parser.add_argument("--stored_costs", action="store_true", help="Draft by the costs that tuning stored")
    parser.add_argument("--engine_python", required=True, help="Interpreter of vLLM's environment")
    parser.add_argument("--name", default="vllm_rounds", help="Of the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (run, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    chat = target.load_chat()
    questions = load_questions(options.questions, get_pair(run.pair), options.max_questions)
    prompts = {question.question_id: chat.encode_prompt(question.prompt) for question in questions}
    asked = Workload(prompts, options.max_new_tokens, frozenset(target.end_ids(chat.tokenizer)), target.stop)
    with tempfile.TemporaryDirectory() as folder:
        drafter = Path(shutil.copytree(options.drafter, Path(folder) / "drafter"))
        description = json.loads((drafter / "drafter.json").read_text(encoding="utf-8"))
        if not options.stored_costs:
            length = options.draft_length
            description["loop"] |= {
                "longest_draft": length,
                "pass_milliseconds": {"cpu": [1.0] * (length + 1)},
                "step_milliseconds": {"cpu": 0.0},
            }
            (drafter / "drafter.json").write_text(json.dumps(description), encoding="utf-8")
        length = description["loop"]["longest_draft"]
        figures = [in_transformers(target, drafter, asked)]
        figures += in_vllm(target, drafter, asked, length, options.engine_python)
    loop = figures[0]
    texts = loop["token ids"]
    for row in figures:
        own = row.pop("token ids")
        row["equal to the loop's"] = f"{sum(own[question] == texts[question] for question in prompts)}/{len(prompts)}"
    ratios = {}
    for name in ("tokens per pass", "behind the prompt"):
        one, several = (row[name] for row in figures[1:])
        ratios[f"{name}: vLLM / transformers"] = one / loop[name]
        ratios[f"{name}: vLLM, {AT_ONCE[1]} at once / {AT_ONCE[0]}"] = several / one
    report(options.name, figures, ratios, options.out)


def in_transformers(target: Target, drafter: Path, asked: Workload) -> dict[str, Any]:
    """Complete the questions with the loop."""
    model = target.load_model("float32").eval()
    given = {
        "assistant_model": load_drafter(str(drafter), model, target.load_tokenizer(), follow_clock=False),
        "eos_token_id": sorted(asked.end_ids),
    }
    found = {name: decode(model, ids, given, 0.0, 0, asked.tokens) for name, ids in asked.prompts.items()}
    rounds = [each.rounds for each in found.values()]
    return figures_of(
        "loop in transformers",
        {name: each.output_ids for name, each in found.items()},
        sum(map(len, rounds)),
        sum(each.drafted for several in rounds for each in several),
        sum(several[0].accepted + 1 for several in rounds),
    )


def in_vllm(target: Target, drafter: Path, asked: Workload, length: int, python: str) -> list[dict[str, Any]]:
    """Complete the questions with the whole drafter in a server."""
    config = vllm_config(str(drafter), length)
    config["additional_config"] |= {"drafter_follow_clock": False}
    context = max(map(len, asked.prompts.values())) + asked.tokens
    words = ["--dtype", "float32", "--enforce-eager", "--no-enable-prefix-caching"]
    words += ["--max-model-len", str(context), "--max-num-seqs", str(max(AT_ONCE))]
    words += ["--kv-cache-memory-bytes", str(CACHE_BYTES)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = vllm_command(python, target.path, config)
    with start_engine(VLLM, target.path, command, port, python, words) as running:
        records = list(measure_server(running.client, "drafter", asked, AT_ONCE))
    return [
        figures_of(
            f"drafter in vLLM {record['version']}, {record['requests_at_once']} at once",
            {each["question_id"]: each["token_ids"] for each in record["prompts"]},
            record["counts"]["passes"],
            record["counts"]["drafted"],
            len(asked.prompts),
        )
        for record in records
    ]


def figures_of(method: str, ids: dict[str, list[int]], passes: int, drafted: int, first: int) -> dict[str, Any]:
    """Return a row of the table; `first` is the number of tokens that the passes over the prompts yielded."""
    tokens = sum(map(len, ids.values()))
    return {
        "method": method,
        "tokens": tokens,
        "passes": passes,
        "drafted": drafted,
        "tokens per pass": tokens / passes,
        "behind the prompt": (tokens - first) / (passes - len(ids)),
        "token ids": ids,
    }


if __name__ == "__main__":
    main()
