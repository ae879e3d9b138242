"""Let a language model grade the completions of each method, after appendix F.4 of arXiv 2406.16758.

    drafter-trainer bench --config recipes/configs/gemma-3-270m/de-en.yaml
    drafter-trainer judge --outputs runs/gemma-3-270m-drafter-de-en --servers https://HOST --judge_model NAME

Any OpenAI-compatible servers; their key, if they want one, in OPENAI_API_KEY. Writes judge.json beside outputs.jsonl
and prints the table. An interrupted run continues where it was; judgements that were refused are asked for again.
"""

from collections import Counter
from pathlib import Path

from drafter_trainer.benchmark.judge import judgement_table
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step
from drafter_trainer.pipeline.judge import judge_outputs


def main(argv: list[str]) -> None:
    """Run the step."""
    (judging,), given = parse_arguments("judge", argv, __doc__)
    step, methods, refused = judge_outputs(Path(judging.outputs), judging.servers, judging.judge_model, given)
    print(judgement_table(methods))
    for reason, count in Counter(refused).items():
        print(f"{count} judgements {reason}")
    report_step(step)
