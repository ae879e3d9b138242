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
"""Train Medusa heads on the target's own answers, for the benchmark to compare with.

    accelerate launch recipes/medusa.py --config recipes/configs/gemma-3-270m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/medusa, which
`recipes/bench.py --baselines medusa` measures. Interrupted, it goes on from its last checkpoint.
"""

from transformers import PreTrainedConfig

from drafter_trainer.benchmark.baselines.medusa import MedusaHeads
from drafter_trainer.benchmark.baselines.trainers import MedusaTrainer, train_baseline
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process, run_recipe


def main(argv: list[str]) -> None:
    (run, where, data, training), given = parse_arguments("medusa", argv, __doc__)
    require_one_process("Medusa heads are trained")
    said = {"heads": data.heads}

    def make_heads(config: PreTrainedConfig) -> MedusaHeads:
        return MedusaHeads(data.heads, config.hidden_size)

    report_step(*train_baseline("medusa", MedusaTrainer, make_heads, said, run, where, data, training, given))


if __name__ == "__main__":
    run_recipe(main)
