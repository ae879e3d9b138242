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
"""Let the target answer a corpus' prompts at several temperatures; its answers become training rows.

    accelerate launch recipes/distill.py --config recipes/configs/smollm2-135m/de-en.yaml

Leaves RUN_FOLDER/distill/{train,validation}, which finetune.py reads. Interrupted, it goes on where it was; asked for
more prompts, temperatures or samples later, or with another engine, it answers what is missing. The target answers in
this process, in vLLM in this process, or at servers:

    recipes/distill.py --config … --engine server --server_kind vllm --servers http://one:8000 http://two:8000

Text that is there already, in the language of the answers, becomes rows too: the target scores it and answers nothing.

    recipes/distill.py --config … --engine text --corpus file:text.txt --output_dir runs/…/text
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from drafter_trainer.arguments import CorpusArguments, DistillationArguments, TargetArguments
from drafter_trainer.configuration import parse_arguments
from drafter_trainer.corpora import STORIES, describe_corpus, read_sentences, read_texts
from drafter_trainer.corpora.fertility import describe_fertility
from drafter_trainer.corpora.files import BadRows
from drafter_trainer.corpora.questions import keep_out
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.distillation import distill
from drafter_trainer.distillation.engines import Engine, TextEngine, TransformersEngine
from drafter_trainer.distillation.filters import survey
from drafter_trainer.distillation.offline_vllm import VLLMEngine
from drafter_trainer.distillation.prompts import START_TOKEN, Prompt, PromptMaker, load_prompts, write_prompts
from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.reuse import FIXED, is_whole, prompts_file, take_over
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import SPLITS, RowStore
from drafter_trainer.distillation.teacher import Teacher
from drafter_trainer.languages import Pair, get_pair
from drafter_trainer.launch import report_step, run_recipe
from drafter_trainer.steps import Step
from drafter_trainer.targets import Target

FERTILITY_TEXTS = 1000  # of each corpus
VALIDATION_SEED = 1 << 32  # far from the seeds of training, where prompts are alike (the start token)


def answering(
    how: DistillationArguments,
    where: TargetArguments,
    target: Target,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
) -> tuple[Engine, Teacher | None]:
    """Make what answers, and what scores its answers where that is asked for; weights are loaded only if need be."""
    engine: Engine
    model = None
    if how.engine in ("transformers", "text") or how.teacher_forcing:
        model = target.load_model(where.dtype, accelerator.device)
    if how.engine == "vllm":
        engine = VLLMEngine(target, where.dtype)
    elif how.engine == "server":
        kind = SERVER_KINDS[how.server_kind](how.server_model or target.name, tokenizer)
        engine = ServerEngine(kind, how.servers, how.concurrency, how.request_timeout)
    elif how.engine == "text":
        engine = TextEngine()
    else:
        engine = TransformersEngine(model, tokenizer.pad_token_id)
    scores = how.engine == "text" or how.teacher_forcing
    return engine, Teacher(model, tokenizer.pad_token_id) if scores else None


def read_corpora(
    corpora: CorpusArguments,
    how: DistillationArguments,
    pair: Pair,
    split: str,
    make: PromptMaker,
    longest: int,
) -> Iterator[Prompt]:
    """Read the prompts of all corpora, one corpus after the other; text in pieces of `longest` tokens at most."""
    bad_rows = BadRows(corpora.skips_bad_rows, make.drops)
    for name in corpora.corpus:
        if how.engine == "text":
            texts = read_texts(name, pair.target, split, bad_rows)
            yield from make.texts(texts, name, pair.target, how.start_token, longest)
        elif name == START_TOKEN:
            yield from make.start_tokens(how.start_token)
        elif name == STORIES:
            yield from make.stories(sample_stories(split), pair.target)
        else:
            yield from make.translations(read_sentences(name, pair, split, bad_rows), name, pair)


def main(argv: list[str]) -> None:
    (run, where, corpora, how), given = parse_arguments("distill", argv, __doc__)
    pair = get_pair(run.pair)
    accelerator = Accelerator()
    target = where.resolve()
    folder = Path(how.output_dir or run.folder / "distill")
    read = {name: describe_corpus(name) for name in corpora.corpus if name != START_TOKEN}
    inputs = {"target": target.identity} | {name: str(said) for name, said in read.items()}
    if target.chat_template is not None:
        inputs["chat_template"] = hashlib.sha256(target.chat_template.encode()).hexdigest()
    step = Step(folder, "distill", given, inputs, accelerator.is_main_process, FIXED)
    if step.is_finished() and is_whole(folder, step.facts):
        return report_step(step, reused=True)

    chat = target.load_chat()
    tokenizer = chat.tokenizer
    decontaminator = keep_out(corpora.evaluation_questions, pair)
    engine = teacher = None
    if not step.difference or not step.earlier["finished"]:
        engine, teacher = answering(how, where, target, tokenizer, accelerator)
    temperatures = [None] if how.engine == "text" else how.temperatures
    ends = target.end_ids(tokenizer) if target.stop and how.engine != "text" else ()
    context, file = target.context, prompts_file(given, inputs | {"target": target.revision})
    stores = {split: RowStore(folder / split, writer=accelerator.process_index) for split in SPLITS}
    names = {store.target_name(target.revision) for store in stores.values()} - {None}
    # Keys are made with the name that the target had when it gave the first row.
    known = replace(target, name=min(names, default=target.name))
    asked: dict[str, tuple[Requests, RowStore]] = {}
    dropped: dict[str, Counter[str]] = {}
    longest = min(how.max_new_tokens, context - 1) if context else how.max_new_tokens
    for split, limit, seed in (
        ("train", corpora.max_samples, how.seed),
        ("validation", corpora.max_validation_samples, how.seed + VALIDATION_SEED),
    ):
        path = folder / split / file
        with accelerator.main_process_first():
            if not path.is_file():
                make = PromptMaker(chat, decontaminator, limit)
                write_prompts(read_corpora(corpora, how, pair, split, make, longest), path, make.drops)
        prompts, dropped[split] = load_prompts(path)
        requests = Requests(prompts, temperatures, how.samples, seed, how.max_new_tokens, pair, known, context)
        asked[split] = (requests, stores[split])
    if step.difference and take_over(step, asked, how.teacher_forcing):
        return report_step(step, reused=True)
    accelerator.wait_for_everyone()  # nobody writes before all have seen what is there
    if engine is None:
        engine, teacher = answering(how, where, target, tokenizer, accelerator)
    with step:
        for split, (requests, store) in asked.items():
            distill(
                requests,
                engine,
                store,
                how.batch_size,
                pair.target.name,
                tokenizer.all_special_ids,
                (accelerator.process_index, accelerator.num_processes),
                teacher,
                how.drop_looping,
                ends,
            )
            if teacher is not None:
                accelerator.wait_for_everyone()  # what the others have stored is scored too
                teacher.complete_stored(store, (accelerator.process_index, accelerator.num_processes))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                counts = store.count() | survey(store, tokenizer)
                drops = dropped[split] + store.drops()
                step.facts[split] = {"prompts": requests.prompts} | counts | {"dropped": dict(drops)}
                for path in (folder / split).glob("prompts*.arrow"):
                    if path.name != file:
                        path.unlink()
        step.facts["corpora"] = list(read.values())
        if how.engine == "text":
            step.facts["fertility"] = describe_fertility(
                (
                    document.text
                    for name in corpora.corpus
                    for document in itertools.islice(
                        read_texts(name, pair.target, "train", BadRows(corpora.skips_bad_rows)), FERTILITY_TEXTS
                    )
                ),
                pair.target,
                tokenizer,
            )
    report_step(step)


if __name__ == "__main__":
    run_recipe(main)
