"""Pretrain a drafter on text at the cost of finetuning: short rows, and a head over the draft vocabulary only.

    python benchmarks/pretraining.py --config recipes/configs/gemma-3-270m/de-en.yaml --text english.txt \
        --vocabulary_of runs/…/finetune --output_dir runs/pretrained --loss_type cross_entropy --num_train_epochs 1

`drafter-trainer pretrain` reads rows of 2,048 tokens with a head over all ids, which for Gemma's 262,144 ids takes
hours of one core. Here a row is 64 tokens of text after the target's first token. All other options, and the files of
the result, are those of `drafter-trainer finetune`: `tokens_per_pass.py` replays the network, and finetuning starts
from it with `--initialization`. Lines that are part of an evaluation question are left out.
"""

import argparse
from pathlib import Path

from datasets import Dataset
from transformers import set_seed

from drafter_trainer import create_drafter
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.files import read_lines
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.languages import get_pair
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.trainers import DrafterTrainer

HELD_OUT = 40  # rows


def main() -> None:
    """Pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="Lines of text")
    parser.add_argument("--vocabulary_of", type=Path, required=True, help="Drafter whose draft vocabulary is trained")
    parser.add_argument("--length", type=int, default=64, help="Tokens of a row")
    parser.add_argument("--rows", type=int, default=3200)
    parser.add_argument("--questions", nargs="+", default=[], help="Question sets that the text is cleared of")
    options, rest = parser.parse_known_args()
    (named, where, _, shape, training), _ = parse_arguments("finetune", rest, __doc__)
    training.output_dir = training.output_dir or str(named.run.pretrained)
    training.kv_sharing_layers = []  # a text has no prompt that the target has read before
    target = where.resolve()
    chat, pair = target.load_chat(), get_pair(named.pair)
    questions = [question for name in options.questions for question in load_questions(name, pair)]
    texts = [text for question in questions for text in (question.text, question.reference) if text]
    decontaminator = Decontaminator((text, True) for text in texts)
    ids: list[int] = []
    for _, line in read_lines(options.text):
        if len(ids) >= options.length * (options.rows + HELD_OUT):
            break
        if decontaminator.reason(line) is None:
            ids += chat.encode_text(line + "\n")
    begin, length = [chat.tokenizer.bos_token_id], options.length
    starts = range(0, len(ids) - length + 1, length)
    rows = Dataset.from_list([{"prompt_ids": begin, "response_ids": ids[start : start + length]} for start in starts])
    held_out, text = (
        rows.select(range(HELD_OUT)),
        rows.select(range(HELD_OUT, min(len(rows), HELD_OUT + options.rows))),
    )
    set_seed(training.seed)  # random weights are the same in every run
    drafter = create_drafter(target, **shape.options(), languages=named.pair)
    draft_ids = read_vocabulary(options.vocabulary_of / VOCABULARY, drafter.config.vocab_size)
    train_to_end(DrafterTrainer(drafter, training, train_dataset=text, eval_dataset=held_out, draft_ids=draft_ids))


if __name__ == "__main__":
    main()
