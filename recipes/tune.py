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

    accelerate launch recipes/tune.py --config recipes/configs/gemma-3-270m/de-en.yaml
    accelerate launch recipes/tune.py --config recipes/configs/gemma-3-270m/de-en.yaml --sources lookup ngram \
      --table_corpus file:text.txt --run_folder runs/ngram

Measures the target's passes and the drafter's step, then tries draft vocabularies, n-gram tables (of the answers, and
with --table_corpus of more text), draft lengths and sources on the held-out answers of RUN_FOLDER/distill. Leaves
RUN_FOLDER/tune, which publish.py puts into the repository, and ends by publishing as publish.py does, unless --publish
false.

With --sources lookup ngram there is no network, and nothing has to be trained before. Without a distillation either,
the tables are those of --table_corpus alone, and what the target makes of the beginnings of its held-out texts is what
settings are tried on.
"""

import functools
from collections import Counter
from pathlib import Path

from accelerate import PartialState
from transformers import AutoModelForCausalLM

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process, run_recipe
from drafter_trainer.corpora import describe_corpus
from drafter_trainer.corpora.files import BadRows
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.policy import SOURCES
from drafter_trainer.drafters.loop.repository import VOCABULARY, read_vocabulary
from drafter_trainer.hub.publish import check_destination, publish_run
from drafter_trainer.languages import get_pair
from drafter_trainer.pipeline.tune import find_settings
from drafter_trainer.runs import Step, finished_step, read_step
from drafter_trainer.training.packing import rows_folder
from drafter_trainer.tuning.answers import continue_texts, load_answers, read_table_texts
from drafter_trainer.tuning.results import read_costs, trials_table, write_costs, write_tuning


def main(argv: list[str]) -> None:
    (run, where, tuning, publishing), given = parse_arguments("tune", argv, __doc__)
    pair = get_pair(run.pair)
    require_one_process("tuning runs")
    if tuning.publish:
        check_destination(publishing.to)
    target = where.resolve()
    trained, rows = run.folder / "finetune", Path(tuning.data or run.folder / "distill")
    inputs = {"target": target.identity}
    if publishing.network:
        inputs["drafter"] = finished_step(trained, "run finetune.py first")["fingerprint"]
    answered = publishing.network or tuning.data or read_step(rows) is not None or not tuning.table_corpus
    if answered:
        text = "" if publishing.network else ", or --table_corpus file:TEXT"
        inputs["rows"] = finished_step(rows, f"run distill.py first, or give --data FOLDER{text}")["fingerprint"]
    for name in tuning.other_tasks:
        inputs[f"task {name}"] = finished_step(Path(name), "distil it first")["fingerprint"]
    if tuning.costs:
        inputs["costs"] = finished_step(Path(tuning.costs), "tune there first")["fingerprint"]
    corpora = []
    for name in tuning.table_corpus:
        if (written := rows_folder(name)) is not None:
            inputs[name] = finished_step(written, "distil it first")["fingerprint"]
            corpora.append({"name": f"rows:{written.parent.name}", "fingerprint": inputs[name]})
        else:
            corpora.append(describe_corpus(name))
            inputs[name] = str(corpora[-1])
    step = Step(run.folder / "tune", "tune", given, inputs)
    if step.is_finished():
        report_step(step, reused=True)
    else:
        chat = target.load_chat()
        tokenizer, drops = chat.tokenizer, Counter()
        target_model = target.load_model(where.dtype, PartialState().device)
        if publishing.network:
            # Rounded as it will be published.
            draft_model = AutoModelForCausalLM.from_pretrained(trained, dtype=target.checkpoint_dtype())
        else:
            draft_model = NetworklessDrafter.for_vocabulary(target_model.config.get_text_config().vocab_size)
        draft_model.to(target_model.device, target_model.dtype).eval()
        read_texts = functools.partial(read_table_texts, tuning.table_corpus, pair, target, chat)
        bad_rows = BadRows(tuning.on_bad_rows == "skip", drops)
        texts = read_texts(tuning.table_samples, tuning.evaluation_questions, drops, bad_rows)
        if answered:
            train, greedy, sampled = load_answers(rows, target, tuning.max_answers)
        else:
            questions, bad_rows = tuning.evaluation_questions, BadRows(bad_rows.skip)  # each bad row counts once
            held_out = read_texts(tuning.max_answers, questions, Counter(), bad_rows, "validation")
            train, (greedy, sampled) = [], continue_texts(target_model, tokenizer, held_out, tuning.max_answers)
        others = [load_answers(Path(name), target, tuning.max_answers)[1] for name in tuning.other_tasks]
        with step:
            vocabulary = trained / VOCABULARY
            trained_ids = None
            if publishing.network and vocabulary.is_file():
                trained_ids = read_vocabulary(vocabulary, draft_model.config.vocab_size)
            costs = read_costs(Path(tuning.costs), tuning.longest_draft) if tuning.costs else None
            found = find_settings(
                target_model,
                draft_model,
                train,
                texts,
                greedy,
                sampled,
                others,
                trained_ids,
                publishing.sources or SOURCES,
                tuning.table_bytes,
                costs,
                tuning.longest_draft,
                tuning.repeats,
            )
            write_costs(step.folder, found.costs)
            write_tuning(step.folder, found.choice, found.trials, hash_tokenizer(tokenizer, pair.probes))
            step.facts |= found.facts
            if found.choice.slots is not None and "texts" in found.choice.counted_on:
                step.facts |= {"corpora": corpora} | ({"dropped": dict(drops)} if drops else {})
        print(trials_table(found.trials))
        report_step(step)
    if tuning.publish:
        print(publish_run(run, target, where.dtype, publishing))


if __name__ == "__main__":
    run_recipe(main)
