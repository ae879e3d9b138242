"""Tokens per target pass of networks at a fixed draft length, replayed on the target's own greedy completions.

    python benchmarks/tokens_per_pass.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --questions questions.jsonl --networks finetuned=runs/…/finetune untrained=runs/…/start

Nothing depends on the clock, so drafters can be compared on any machine, also on a busy one. The target's completions
are decoded once and stored; they are scored if the questions have references.
"""

import argparse
import json
from pathlib import Path

from reporting import RESULTS, report
from studies import load_network, replay_at_fixed_length
from tqdm.auto import tqdm

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.quality import score
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import hash_questions, load_questions
from drafter_trainer.decoding.metrics import acceptance_by_position, alpha, is_looping, mean_accepted_tokens
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.languages import get_pair


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target and the pair")
    parser.add_argument("--questions", required=True, help="Name or file of the questions, as for the benchmark")
    parser.add_argument("--max_questions", type=int)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--draft_length", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="Draft with int8 weights")
    parser.add_argument("--completions", type=Path, required=True, help="File of the completions")
    parser.add_argument("--name", default="tokens_per_pass", help="Name of the results file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (run, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    pair, target = get_pair(run.pair), where.resolve()
    chat = target.load_chat()
    questions = load_questions(options.questions, pair, options.max_questions)
    end_ids = frozenset(target.end_ids(chat.tokenizer))
    identity = f"{target.identity} {hash_questions(questions)} {options.max_new_tokens} {where.dtype}"
    if not options.completions.is_file():
        requests = [
            Request(
                tuple(chat.encode_prompt(question.prompt)),
                0.0,
                0,
                options.max_new_tokens,
                question.question_id,
                options.questions,
                str(pair),
                target.name,
                target.revision,
            )
            for question in questions
        ]
        engine = TransformersEngine(target.load_model(where.dtype), chat.tokenizer.pad_token_id)
        answers = engine.complete_batch(requests)
        kept = [[request.prompt_ids, answer.completion_ids] for request, answer in zip(requests, answers)]
        text = json.dumps({"of": identity, "completions": kept})
        write_whole(options.completions, text)
    said = json.loads(options.completions.read_text(encoding="utf-8"))
    if said["of"] != identity:
        parser.error(f"{options.completions} holds other completions ({said['of']}): name another file")
    completions = said["completions"]
    tokens = sum(len(completion) for _, completion in completions)
    texts = [chat.tokenizer.decode(ids, skip_special_tokens=True).strip() for _, ids in completions]
    worth = {"completions": len(completions), "tokens": tokens}
    worth["looping"] = sum(is_looping(ids) for _, ids in completions) / len(completions)
    if all(question.reference for question in questions):
        quality = score(texts, [question.reference for question in questions], pair.target)
        worth |= {"chrF": quality["chrf"], "BLEU": quality["bleu"]}
    figures = []
    target_texts = TargetTexts(target.load_model(where.dtype))
    for named in options.networks:
        name, _, folder = named.partition("=")
        network = load_network(Path(folder), options.int8)
        ways = {name: network.kv_sharing_layers}
        if network.kv_sharing_layers:
            ways[f"{name}, without the target's keys"] = None
        for way, network.kv_sharing_layers in ways.items():
            bar = tqdm(completions, unit="completion", desc=way)
            rounds = replay_at_fixed_length(network, bar, options.draft_length, end_ids, target_texts)
            shares = [*acceptance_by_position(rounds), *[0.0] * options.draft_length][: options.draft_length]
            figures.append(
                {"network": way, "tokens per target pass": mean_accepted_tokens(tokens, len(rounds))}
                | {"alpha": alpha(rounds)}
                | {f"position {place + 1}": share for place, share in enumerate(shares)}
            )
    report(options.name, figures, worth, options.out)


if __name__ == "__main__":
    main()
