"""Pretrain a drafter on packed text and conversations.

    drafter-trainer pretrain --config recipes/configs/gemma-3-270m/de-en.yaml

Writes RUN_FOLDER/pretrain: the drafter, and in packed/ its training rows. An interrupted training continues from its
last checkpoint.
"""

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.pipeline.pretrain import pretrain


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, corpora, shape, training), given = parse_arguments("pretrain", argv, __doc__)
    corpora.require_corpus()
    limits = dict(zip(("max_samples", "max_validation_samples"), corpora.limits))
    training.output_dir = training.output_dir or str(named.run.pretrained)
    pretrain(
        where.resolve(),
        corpora.corpus,
        training,
        languages=named.pair,
        shape=shape.options(),
        **limits,
        evaluation_questions=corpora.evaluation_questions,
        settings=given | limits,
    )
