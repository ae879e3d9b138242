# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Find on this machine how a finetuned drafter drafts best, publish it with what was found.

    accelerate launch recipes/tune.py --config recipes/configs/smollm2-135m/de-en.yaml

Measures the target's passes and the drafter's step, then tries draft vocabularies, n-gram tables (of the answers, and
with --table_corpus of more text), draft lengths and sources on the held-out answers of RUN_FOLDER/distill. Leaves
RUN_FOLDER/tune, which publish.py puts into the repository, and ends by publishing as publish.py does, unless --publish
false.
"""

from pathlib import Path

from accelerate import PartialState
from transformers import AutoModelForCausalLM

from drafter_trainer.configuration import parse_arguments
from drafter_trainer.corpora import describe_corpus
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.loop.repository import VOCABULARY, read_vocabulary
from drafter_trainer.hub.publish import check_destination, publish_run
from drafter_trainer.languages import get_pair
from drafter_trainer.launch import report_step, require_one_process, run_recipe
from drafter_trainer.steps import Step, finished_step
from drafter_trainer.targets import end_ids, resolve_target
from drafter_trainer.training.packing import rows_folder
from drafter_trainer.tuning.answers import load_answers, read_table_texts, typical_prompt
from drafter_trainer.tuning.costs import measure_costs
from drafter_trainer.tuning.results import trials_table, write_tuning
from drafter_trainer.tuning.search import Tuning


def main(argv: list[str]) -> None:
    (run, where, tuning, publishing), given = parse_arguments("tune", argv, __doc__)
    pair = get_pair(run.pair)
    require_one_process("tuning runs")
    if tuning.publish:
        check_destination(publishing.to)
    target = resolve_target(where.target_model, where.target_revision, where.target_name, where.chat_template)
    trained, rows = run.folder / "finetune", Path(tuning.data or run.folder / "distill")
    inputs = {
        "target": target.identity,
        "drafter": finished_step(trained, "run finetune.py first")["fingerprint"],
        "rows": finished_step(rows, "run distill.py first, or give --data FOLDER")["fingerprint"],
    }
    for name in tuning.table_corpus:
        if (written := rows_folder(name)) is not None:
            inputs[name] = finished_step(written, "distil it first")["fingerprint"]
        else:
            inputs[name] = str(describe_corpus(name))
    step = Step(run.folder / "tune", "tune", given, inputs)
    if step.is_finished():
        report_step(step, reused=True)
    else:
        tokenizer = target.load_tokenizer()
        target_model = target.load_model(where.dtype, PartialState().device)
        draft_model = AutoModelForCausalLM.from_pretrained(trained, dtype=target_model.dtype)
        draft_model.to(target_model.device).eval()
        train, greedy, sampled = load_answers(rows, target, tuning.max_answers)
        texts = read_table_texts(
            tuning.table_corpus, pair, target, tokenizer, tuning.table_samples, tuning.evaluation_questions
        )
        with step:
            costs = measure_costs(
                target_model, draft_model, None, typical_prompt(greedy), tuning.longest_draft, tuning.repeats
            )
            vocabulary = trained / VOCABULARY
            trained_ids = None
            if vocabulary.is_file():
                trained_ids = read_vocabulary(vocabulary, draft_model.config.vocab_size)
            ends = end_ids(target_model)
            search = Tuning(draft_model, train, texts, greedy, sampled, costs, ends, trained_ids)
            choice = search.run()
            write_tuning(step.folder, choice, search.trials, hash_tokenizer(tokenizer, pair.probes))
            step.facts |= {
                "pass_milliseconds": [round(taken, 1) for taken in costs.passes],
                "draft_vocabulary": "all" if choice.draft_ids is None else len(choice.draft_ids),
                "speedup_on_validation": round(search.speedup, 2),
            }
        print(trials_table(search.trials))
        report_step(step)
    if tuning.publish:
        print(publish_run(run, target, where.dtype, publishing))


if __name__ == "__main__":
    run_recipe(main)
