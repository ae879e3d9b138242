"""Translation quality of a base model by the number and the length of the examples in its prompt: chrF, BLEU, tokens.

    python benchmarks/few_shot.py --config recipes/configs/gemma-3-270m/de-en.yaml --questions questions.jsonl

The distillation engine decodes greedily. The questions need references. They must not be questions of a benchmark,
because they decide which examples the template shows.
"""

import argparse
import sys
from pathlib import Path

from reporting import RESULTS, report

from drafter_trainer.benchmark.quality import score
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.corpora.tasks import Task
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.languages import get_pair


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--questions", required=True, help="Spec-Bench file with references")
    parser.add_argument("--max_questions", type=int, default=64)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (run, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    pair = get_pair(run.pair)
    target = where.resolve()
    tokenizer = target.load_tokenizer()
    questions = load_questions(options.questions, pair, options.max_questions, Task())
    engine = TransformersEngine(target.load_model(options.dtype), tokenizer.pad_token_id)
    figures = []
    # Without examples there is one prompt for both lengths.
    settings = [(False, shots) for shots in options.shots] + [(True, shots) for shots in options.shots if shots]
    for short, shots in settings:
        chat = ChatTokenizer(tokenizer, {"shots": shots, "short_examples": short})
        requests = [
            Request(
                tuple(chat.encode_prompt(question.prompt)),
                0.0,
                0,
                128,
                question.question_id,
                "questions",
                str(pair),
                target.name,
                target.revision,
            )
            for question in questions
        ]
        answers = engine.complete_batch(requests)
        texts = [tokenizer.decode(answer.completion_ids, skip_special_tokens=True).strip() for answer in answers]
        quality = score(texts, [question.reference for question in questions], pair.target)
        figures.append(
            {
                "sentences": "short" if short else "long",
                "examples": shots,
                "prompt tokens": sum(len(request.prompt_ids) for request in requests) / len(requests),
                "completion tokens": sum(len(answer.completion_ids) for answer in answers) / len(answers),
                "ended by themselves": sum(answer.finish_reason == "stop" for answer in answers) / len(answers),
                "chrF": quality["chrf"],
                "BLEU": quality["bleu"],
            }
        )
        print(figures[-1], texts[:2], file=sys.stderr)
    report(f"few_shot_{pair}", figures, {}, options.out)


if __name__ == "__main__":
    main()
