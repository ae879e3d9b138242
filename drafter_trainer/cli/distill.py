"""Let the target complete prompts at several temperatures; its completions become training rows.

    drafter-trainer distill --config recipes/configs/gemma-3-270m/de-en.yaml
    drafter-trainer distill --target HUB_ID --pair nl --prompts DATASET_OR_FILE

Prompts are your own (--prompts), or made from --corpus with the template of a task. Writes RUN_FOLDER/distill, which
finetune reads. After an interruption, the same command continues. With more prompts or temperatures, or with another
engine, the command only adds the missing rows. The target runs in this process, in vLLM in this process, or on
servers:

    drafter-trainer distill --config … --engine vllm --servers http://one:8000 http://two:8000

With --engine text, the target scores existing text in the language of the completions:

    drafter-trainer distill --config … --engine text --corpus file:text.txt --output_dir runs/…/text
"""

from pathlib import Path

from drafter_trainer import distill, score_text
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.options import arguments_of
from drafter_trainer.corpora.catalog import STORIES
from drafter_trainer.distillation.prompts import corpus_prompts, corpus_texts
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, corpora, how), _ = parse_arguments("distill", argv, __doc__)
    if not how.prompts:
        corpora.require_corpus()
    elif how.engine == "text":
        raise InputError("engine text scores a corpus: leave prompts out")
    pair, target = get_pair(named.pair), where.resolve()
    translated = set() if how.prompts or how.engine == "text" else {*corpora.corpus} - {STORIES}
    if translated and not pair.is_translation:
        raise InputError(
            f"prompts from a corpus ask for translations: give a pair, such as --pair en-{pair.target.code}, or "
            "--prompts for prompts in one language"
        )
    folder = Path(how.output_dir or named.run.rows)
    limits, scores = corpora.limits, how.engine == "text"
    given = arguments_of(score_text if scores else distill, corpora, how, where)
    given |= {"output_dir": folder, "languages": named.pair}
    if scores:
        length = min(how.max_new_tokens, target.context - 1) if target.context else how.max_new_tokens
        score_text(
            target,
            [corpus_texts(name, pair.target, length) for name in corpora.corpus],
            max_length=how.max_new_tokens,
            max_texts=limits[0],
            max_validation_texts=limits[1],
            **given,
        )
    else:
        given["prompts"] = how.prompts or [corpus_prompts(name, pair) for name in corpora.corpus]
        given["engine"] = how.engine or None
        distill(target, max_prompts=limits[0], max_validation_prompts=limits[1], **given)
