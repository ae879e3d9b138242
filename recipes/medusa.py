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

    accelerate launch recipes/medusa.py --config recipes/configs/smollm2-135m/de-en.yaml

Reads RUN_FOLDER/distill (or the folders of --data), as finetuning does, and leaves RUN_FOLDER/medusa, which
`recipes/bench.py --rivals medusa` measures. Interrupted, it goes on from its last checkpoint.
"""

from pathlib import Path

from drafter_trainer.benchmark.rivals.medusa import MedusaHeads
from drafter_trainer.benchmark.rivals.trainers import MedusaTrainer, train_rival
from drafter_trainer.configuration import parse_arguments
from drafter_trainer.launch import report_step, require_one_process, run_recipe
from drafter_trainer.steps import Step, finished_step
from drafter_trainer.targets import resolve_target


def main(argv: list[str]) -> None:
    (run, where, data, training), given = parse_arguments("medusa", argv, __doc__)
    require_one_process("Medusa heads are trained")
    target = resolve_target(where.target_model, where.target_revision, where.target_name, where.chat_template)
    training.output_dir = training.output_dir or str(run.folder / "medusa")
    folders = [Path(folder) for folder in data.data] or [run.folder / "distill"]
    advice = "run distill.py first, or give --data FOLDER"
    rows = " ".join(finished_step(folder, advice)["fingerprint"] for folder in folders)
    step = Step(Path(training.output_dir), "medusa", given, {"target": target.identity, "rows": rows})
    if step.is_finished():
        return report_step(step, reused=True)
    with step:
        target_model = target.load_model(where.dtype, training.device)
        heads = MedusaHeads(data.heads, target_model.config.get_text_config().hidden_size)
        description = {"rival": "medusa", "heads": data.heads}
        step.facts |= train_rival(MedusaTrainer, heads, target, target_model, data, folders, training, description)
    report_step(step)


if __name__ == "__main__":
    run_recipe(main)
