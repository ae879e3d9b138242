"""Measure the router between drafters of several pairs against always knowing the language.

    accelerate launch recipes/route.py --config recipes/configs/gemma-3-270m/common.yaml \\
      --drafters runs/gemma-3-270m-drafter-{de,fr,ru,ja,zh}-en/drafter --questions mixed.jsonl

The pairs' questions take turns, and each is asked with plain decoding, with the drafter of its pair, and with the
router, which is told nothing. Both draft with the same drafters. Writes results.json with its report to --out and
prints the tables, all pairs together and each alone. Interrupted, it goes on with the question that it was at.
"""

from pathlib import Path

from accelerate import PartialState

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.benchmark.summary import summarise_run
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process, run_recipe
from drafter_trainer.corpora.questions import hash_questions, load_mixed_questions
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.drafters.load import describe_drafter, identify_drafter
from drafter_trainer.hub.router import DrafterRouter, with_known_pairs
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.results import DRAFTER, PLAIN, SCHEMA_VERSION, read_results, write_results
from drafter_trainer.runs import Step

ROUTER = "router"


def main(argv: list[str]) -> None:
    (where, route), given = parse_arguments("route", argv, __doc__)
    require_one_process("a benchmark runs")
    pairs = list(dict.fromkeys(describe_drafter(drafter).pair for drafter in route.drafters))
    asked = load_mixed_questions(route.questions, [get_pair(pair) for pair in pairs], route.max_questions)
    target = where.resolve()
    identities = [identify_drafter(drafter) for drafter in route.drafters]
    inputs = {
        "target": target.identity,
        "drafters": ", ".join(identities),
        "questions": hash_questions(question for _, question in asked),
    }
    out = Path(route.out)
    step = Step(out / "bench", "route", given, inputs)
    if step.is_finished():
        print(report_tables(read_results(out / "results.json")))
        return report_step(step, reused=True)

    chat = target.load_chat()
    tokenizer = chat.tokenizer
    target_model = target.load_model(where.dtype, PartialState().device)
    router = DrafterRouter.from_hub(target_model, route.drafters, tokenizer)
    known = {tuple(chat.encode_prompt(question.prompt)): pair for pair, question in asked}
    longest = router.generation_config.num_assistant_tokens
    methods = [
        Method(PLAIN),
        Method(DRAFTER, longest, {"assistant_model": with_known_pairs(router, known)}),
        Method(ROUTER, longest, {"assistant_model": router}),
    ]
    setting = Setting(0.0, 0, route.max_new_tokens)
    with step:
        records = measure(
            target_model,
            chat,
            [question for _, question in asked],
            methods,
            setting,
            step.folder / "journal.jsonl",
            route.repeats,
        )
        runs = []
        for chosen in (pairs, *([pair] for pair in pairs)) if len(pairs) > 1 else [pairs]:
            part = [(pair, question) for pair, question in asked if str(pair) in chosen]
            ids = {question.question_id for _, question in part}
            described = {
                "pair": " ".join(chosen),
                "task": TRANSLATION,
                "draft_length": longest,
                "repeats": route.repeats,
                "dtype": str(target_model.dtype).removeprefix("torch."),
                "questions": {
                    "source": Path(route.questions).name,
                    "count": len(part),
                    "sha256": hash_questions(question for _, question in part),
                },
            }
            own = [record for record in records if record["question_id"] in ids]
            runs.append(summarise_run(own, methods, setting, described))
        results = {
            "schema_version": SCHEMA_VERSION,
            "provenance": collect_provenance() | {"target": target.identity, "drafter": ", ".join(route.drafters)},
            "runs": runs,
        }
        write_results(results, out / "results.json")
        write_report(results, out)
        step.facts["over knowing the language"] = round(over_knowing(runs[0]), 4)
    print(report_tables(results))
    report_step(step)


def over_knowing(run: dict) -> float:
    """Return the router's tokens/s over those of the right drafters."""
    speeds = {method["name"]: method["tokens_per_second"] for method in run["methods"]}
    return speeds[ROUTER] / speeds[DRAFTER]


if __name__ == "__main__":
    run_recipe(main)
