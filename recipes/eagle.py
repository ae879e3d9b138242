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
"""Train an EAGLE layer on the target's own answers, for the benchmark to compare with.

    accelerate launch recipes/eagle.py --config recipes/configs/smollm2-135m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/eagle, which
`recipes/bench.py --rivals eagle` measures. Interrupted, it goes on from its last checkpoint.
"""

from pathlib import Path

from transformers import set_seed

from drafter_trainer.benchmark.rivals.eagle import EagleLayer
from drafter_trainer.benchmark.rivals.trainers import EagleTrainer, train_rival
from drafter_trainer.configuration import parse_arguments
from drafter_trainer.launch import report_step, require_one_process, run_recipe
from drafter_trainer.steps import Step, finished_step
from drafter_trainer.targets import resolve_target


def main(argv: list[str]) -> None:
    (run, where, data, training), given = parse_arguments("eagle", argv, __doc__)
    require_one_process("an EAGLE layer is trained")
    target = resolve_target(where.target_model, where.target_revision, where.target_name, where.chat_template)
    training.output_dir = training.output_dir or str(run.folder / "eagle")
    folders = [Path(folder) for folder in data.data] or [run.folder / "distill"]
    advice = "run distill.py first, or give --data FOLDER"
    rows = " ".join(finished_step(folder, advice)["fingerprint"] for folder in folders)
    step = Step(Path(training.output_dir), "eagle", given, {"target": target.identity, "rows": rows})
    if step.is_finished():
        return report_step(step, reused=True)
    with step:
        target_model = target.load_model(where.dtype, training.device)
        set_seed(training.seed)  # weights that are drawn are drawn alike in every run
        layer = EagleLayer(target_model.config.get_text_config())
        description = {"rival": "eagle"}
        step.facts |= train_rival(EagleTrainer, layer, target, target_model, data, folders, training, description)
    report_step(step)


if __name__ == "__main__":
    run_recipe(main)
