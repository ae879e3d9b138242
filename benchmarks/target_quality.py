"""Quality of a target's own greedy completions: chrF and BLEU, the share in the language, the share that loops.

    python -m benchmarks.target_quality --configs recipes/configs/gemma-3-270m/{de,fr,ru,ja,zh}-en.yaml \
        --questions ntrex=eval/ntrex_{pair}.jsonl eval=eval/{pair}.jsonl --completions runs/completions

All questions of each set are completed once, in batches, and the completions are stored in the folder of
`--completions`. Questions without references have no chrF.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.transfer import Writer, judge
from benchmarks.reporting import RESULTS, report
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.languages import get_pair


def main(argv: Sequence[str] | None = None) -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", required=True, help="Configurations of the target, one for each pair")
    parser.add_argument("--questions", nargs="+", required=True, metavar="NAME=SET", help="{pair} stands for the pair")
    parser.add_argument("--completions", type=Path, required=True, help="Folder of the completions")
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    figures = []
    for config in options.configs:
        (run, where, *_), _ = parse_arguments("export", ["--config", config], __doc__)
        pair, target = get_pair(run.pair), where.resolve()
        chat = target.load_chat()
        engine = TransformersEngine(target.load_model(where.dtype), chat.tokenizer.pad_token_id)
        writer = Writer(target, where.dtype, chat, engine, options.max_new_tokens, options.completions)
        for named in options.questions:
            name, _, place = named.partition("=")
            questions = load_questions(place.format(pair=pair), pair)
            completions = writer.complete(questions, name, pair)
            texts = [chat.tokenizer.decode(ids, skip_special_tokens=True).strip() for _, ids in completions]
            worth = judge(texts, completions, questions, pair)
            figures.append({"questions": name, "pair": str(pair), "completions": len(texts)} | worth)
    scored = [figure for figure in figures if figure["chrF"] is not None]
    count = sum(figure["completions"] for figure in figures)
    ratios = {"chrF, mean of the sets with references": sum(figure["chrF"] for figure in scored) / max(len(scored), 1)}
    for name in ("in the language", "looping"):
        shares = [(figure[name] or 0.0) * figure["completions"] for figure in figures]
        ratios[f"{name}, share of all completions"] = sum(shares) / count
    report("target_quality", figures, ratios, options.out)


if __name__ == "__main__":
    main()
