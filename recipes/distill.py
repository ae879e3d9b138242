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

    accelerate launch recipes/distill.py --config recipes/configs/gemma-3-270m/de-en.yaml

Leaves RUN_FOLDER/distill/{train,validation}, which finetune.py reads. Interrupted, it goes on where it was; asked for
more prompts, temperatures or samples later, or with another engine, it answers what is missing. The target answers in
this process, in vLLM in this process, or at servers:

    recipes/distill.py --config … --engine server --server_kind vllm --servers http://one:8000 http://two:8000

Text that is there already, in the language of the answers, becomes rows too: the target scores it and answers nothing.

    recipes/distill.py --config … --engine text --corpus file:text.txt --output_dir runs/…/text
"""

from pathlib import Path

from drafter_trainer import distill, score_text
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_folder, run_recipe
from drafter_trainer.distillation.sources import corpus_prompts, corpus_texts
from drafter_trainer.languages import get_pair
from drafter_trainer.runs import read_step


def main(argv: list[str]) -> None:
    (run, where, corpora, how), _ = parse_arguments("distill", argv, __doc__)
    pair, target = get_pair(run.pair), where.resolve()
    folder = Path(how.output_dir or run.folder / "distill")
    before = read_step(folder)
    common = {
        "output_dir": folder,
        "languages": run.pair,
        "evaluation_questions": corpora.evaluation_questions,
        "batch_size": how.batch_size,
        "dtype": where.dtype,
    }
    bad_rows = corpora.skips_bad_rows
    if how.engine == "text":
        length = min(how.max_new_tokens, target.context - 1) if target.context else how.max_new_tokens
        score_text(
            target,
            [corpus_texts(name, pair.target, length, bad_rows, how.start_token) for name in corpora.corpus],
            max_length=how.max_new_tokens,
            max_texts=corpora.max_samples,
            max_validation_texts=corpora.max_validation_samples,
            start_token=how.start_token,
            **common,
        )
    else:
        distill(
            target,
            [corpus_prompts(name, pair, bad_rows, how.start_token) for name in corpora.corpus],
            temperatures=how.temperatures,
            samples=how.samples,
            max_new_tokens=how.max_new_tokens,
            max_prompts=corpora.max_samples,
            max_validation_prompts=corpora.max_validation_samples,
            engine="transformers" if how.engine == "server" else how.engine,
            servers=how.servers,
            server_kind=how.server_kind,
            server_model=how.server_model,
            concurrency=how.concurrency,
            request_timeout=how.request_timeout,
            teacher_forcing=how.teacher_forcing,
            drop_looping=how.drop_looping,
            seed=how.seed,
            **common,
        )
    report_folder(folder, before)


if __name__ == "__main__":
    run_recipe(main)
