"""Let a language model grade what each method answered, after appendix F.4 of arXiv 2406.16758.

    python recipes/bench.py --config recipes/configs/gemma-3-270m/de-en.yaml --save_outputs true
    python recipes/judge.py --outputs runs/gemma-3-270m-drafter-de-en --servers https://HOST --judge_model NAME

Any OpenAI-compatible servers; their key, if they want one, in OPENAI_API_KEY. Writes judge.json beside outputs.jsonl
and prints the table. Interrupted, it goes on where it was; what was refused is asked again.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.judge import Chat, judge, judgement_table, summarise
from drafter_trainer.benchmark.outputs import FILE_NAME, read_outputs
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, run_recipe
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.runs import Step


def main(argv: list[str]) -> None:
    (judging,), given = parse_arguments("judge", argv, __doc__)
    folder = Path(judging.outputs)
    outputs = read_outputs(folder / FILE_NAME)
    hashed = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()
    step = Step(folder / "judge", "judge", given, {"outputs": hashed})
    step.is_finished()  # refuses judgements of other answers; of these, what was refused is asked again
    engine = ServerEngine(Chat(judging.judge_model), judging.servers, judging.concurrency, judging.request_timeout)
    with step:
        judged = judge(outputs, engine, judging.judgement_tokens, step.folder / "journal.jsonl")
        methods = summarise(outputs, judged, judging.judgement_tokens)
        results = {"judge": judging.judge_model, "answers": hashed, "methods": methods}
        text = json.dumps(results | {"provenance": collect_provenance()}, indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / "judge.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    print(judgement_table(methods))
    for reason, count in Counter(line["refused"] for line in judged.values() if "refused" in line).items():
        print(f"{count} judgements {reason}")
    report_step(step)


if __name__ == "__main__":
    run_recipe(main)
