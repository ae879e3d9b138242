"""Compare the speed of a drafter with plain decoding, prompt lookup and other methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.benchmark.measure import OUTPUTS, Setting, measure, read_journal, write_outputs
from drafter_trainer.benchmark.methods import Method, build_methods
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.benchmark.quality import add_language_share, add_quality
from drafter_trainer.benchmark.summary import summarize_run
from drafter_trainer.corpora.questions import Question, hash_questions, load_questions
from drafter_trainer.corpora.tasks import TASKS, TRANSLATION, Task
from drafter_trainer.corpora.user_data import open_user_data
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.repository import Repository, target_of
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, read_languages
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.results import RESULTS, SCHEMA_VERSION, Results, read_results, write_results
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target


def benchmark(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    questions: Any = "sample",
    *,
    output_dir: str | Path | None = None,
    languages: str | Iterable[str] | None = None,
    task: str = TRANSLATION,
    max_questions: int | None = None,
    max_sampling_questions: int | None = None,
    temperatures: Sequence[float] = (0.0, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    max_new_tokens: int = 128,
    repeats: int = 1,
    prompt_lookup_tokens: Sequence[int] = (10,),
    against: Mapping[str, str] | None = None,
    pretrained: str | None = None,
    without: Sequence[str] = (),
    alone: Sequence[str] = (),
    stock_loop: bool = False,
    follow_clock: bool = True,
    dtype: str = "auto",
    other_methods: Callable[[Target, PreTrainedModel], list[Method]] | None = None,
    other_inputs: Mapping[str, str] | None = None,
) -> Results:
    """Measure the speed of a drafter, of plain decoding and of other methods at batch size 1.

    All methods decode a prompt before the next prompt begins. The same call resumes after an interruption. A finished
    benchmark with the same settings is not repeated.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of the drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; defaults to the Hub model that the
            drafter names.
        questions (`str` or `Iterable`, *optional*, defaults to `"sample"`): Name of a question set ("sample", "wmt16",
            "file:PATH", "mt-bench", or the path of a Spec-Bench file), or your own prompts: a dataset or a list of
            texts or rows. Rows have a `prompt`, and optionally a `reference` to score completions against.
        output_dir (`str` or `Path`, *optional*): Folder of `results.json`, `report.html`, `report.md`, `plots/` and
            `outputs.jsonl` (the completions); defaults to the drafter's own folder.
        languages (`str` or `Iterable[str]`, *optional*): Pair or language of the questions; defaults to the drafter's.
        task (`str`, *optional*, defaults to `"translation"`): Name of the task. The tasks of `corpora.tasks.TASKS`
            also select categories of a Spec-Bench file, and the number of turns of a conversation.
        max_questions (`int`, *optional*): Maximum number of questions; defaults to all.
        max_sampling_questions (`int`, *optional*): Maximum number of questions at temperatures above 0.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 1.0)`): Sampling temperatures; 0 is greedy.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): Seeds of each temperature above 0.
        max_new_tokens (`int`, *optional*, defaults to `128`): Maximum number of tokens of a completion.
        repeats (`int`, *optional*, defaults to `1`): Odd number of timings of each prompt; the median counts.
        prompt_lookup_tokens (`Sequence[int]`, *optional*, defaults to `(10,)`): Draft lengths at which prompt lookup
            is measured.
        against (`Mapping[str, str]`, *optional*): Other drafters to measure: their folders or Hub ids by name.
        pretrained (`str`, *optional*): Folder or Hub id of the drafter before finetuning.
        without (`Sequence[str]`, *optional*): For each of these draft sources ("lookup", "ngram", "network"), also
            measure the drafter without this source.
        alone (`Sequence[str]`, *optional*): For each of these draft sources, also measure the drafter with this source
            only.
        stock_loop (`bool`, *optional*, defaults to `False`): Also measure the drafter in transformers' own loop.
        follow_clock (`bool`, *optional*, defaults to `True`): As for `load_drafter`.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; "auto" is the dtype of its checkpoint.
        other_methods (callable, *optional*): Function from the target and its model to further methods.
        other_inputs (`Mapping[str, str]`, *optional*): Fingerprints of the inputs of `other_methods`.
    Returns:
        `dict`: The contents of `results.json`.
    Raises:
        InputError: If there is no such drafter or target, or the questions cannot be read.
    """
    if repeats % 2 == 0:
        raise InputError(f"repeats must be odd, so that the median is a measured value, got {repeats}")
    against = dict(against or {})
    measured = Measurement(drafter, target, questions, output_dir, languages, task, max_questions)
    settings = {
        "temperatures": list(temperatures),
        "seeds": list(seeds),
        "max_new_tokens": max_new_tokens,
        "max_sampling_questions": max_sampling_questions,
        "repeats": repeats,
        "prompt_lookup_tokens": list(prompt_lookup_tokens),
        "without": list(without),
        "alone": list(alone),
        "stock_loop": stock_loop,
        "follow_clock": follow_clock,
        "dtype": dtype,
    }
    inputs = {f"against {name}": Repository.open(other).identity for name, other in against.items()}
    inputs["pretrained"] = Repository.open(pretrained).identity if pretrained else "none"
    results, outputs = measured.begin(settings, inputs | dict(other_inputs or {})), measured.out / OUTPUTS
    if results is not None:
        if not outputs.is_file():  # earlier releases wrote no outputs.jsonl
            write_outputs(read_journal(measured.journal), outputs)
        return results
    chat = measured.target.load_chat()
    target_model = measured.target.load_model(dtype, PartialState().device)

    def load(drafter: str) -> PreTrainedModel:
        return load_drafter(drafter, target_model, chat.tokenizer, follow_clock=follow_clock)

    main, loaded = load(measured.drafter), {name: load(other) for name, other in against.items()}
    before = None
    if pretrained:
        before = AutoModelForCausalLM.from_pretrained(pretrained, dtype=target_model.dtype)
        before.to(target_model.device).eval()
    stock_length = measured.description.draft_length if stock_loop else None
    methods = build_methods(main, before, prompt_lookup_tokens, without, stock_length, alone, loaded)
    if other_methods:  # the drafter stays the last of the table
        methods[-1:-1] = other_methods(measured.target, target_model)
    names = [method.name for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two methods are called {twice}: name each once")
    with measured.step:
        runs = []
        for temperature, seed in [(each, seed) for each in temperatures for seed in (seeds if each > 0 else [0])]:
            asked = measured.questions if temperature == 0 else measured.questions[:max_sampling_questions]
            setting = Setting(temperature, seed, max_new_tokens)
            records = measure(target_model, chat, asked, methods, setting, measured.journal, repeats)
            facts = {
                "draft_length": main.generation_config.num_assistant_tokens,
                "repeats": repeats,
                "follow_clock": follow_clock,
                "dtype": str(target_model.dtype).removeprefix("torch."),
            }
            runs.append(summarize_run(records, methods, setting, measured.facts(asked) | facts))
            add_quality(runs[-1], records, asked, measured.pair.target)
            add_language_share(runs[-1], records, measured.pair.target)
        write_outputs(read_journal(measured.journal), outputs)
        return measured.write(runs)


class Measurement:
    """The drafter, the target, the questions and the step of a benchmark; arguments are as for `benchmark`."""

    def __init__(
        self,
        drafter: str | Path,
        target: Any,
        questions: Any,
        output_dir: str | Path | None,
        languages: str | Iterable[str] | None,
        task: str,
        limit: int | None,
    ) -> None:
        self.drafter, self.task = str(drafter), task
        self.repository = Repository.open(self.drafter)
        self.description, self.target = self.repository.description, target_of(self.drafter, target)
        if output_dir is None and not Path(self.drafter).is_dir():
            raise InputError("name an output_dir: the drafter is on the Hub")
        self.out = Path(output_dir or self.drafter)
        self.pair = self.description.language_pair
        if languages:
            spoken, pair = read_languages(languages)
            self.pair = pair or Pair(spoken[0], spoken[0])
        self.source, self.questions = _read_questions(questions, self.pair, limit, TASKS.get(task) or Task(task))

    def begin(self, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Results | None:
        """Open the step; return the results of a finished one with the same settings and inputs."""
        self.identity = self.repository.identity
        own = {"target": self.target.identity, "drafter": self.identity, "questions": hash_questions(self.questions)}
        settings = {"pair": str(self.pair), "task": self.task} | dict(settings)
        self.step = Step(self.out / "bench", "bench", settings, own | dict(inputs))
        self.journal = self.step.folder / "journal.jsonl"
        finished = self.step.is_finished() and (self.out / RESULTS).is_file()
        return read_results(self.out / RESULTS) if finished else None

    def facts(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Return the description of the questions that every run of a results file has."""
        asked = {"source": self.source, "count": len(questions), "sha256": hash_questions(questions)}
        return {"pair": str(self.pair), "task": self.task, "questions": asked}

    def write(self, runs: list[dict[str, Any]]) -> Results:
        """Write the results and their report, and return the results."""
        provenance = collect_provenance() | {
            "target": self.target.identity,
            "drafter": self.description.name,
            "drafter_revision": self.identity,
            "drafter_fingerprint": self.description.fingerprint(),
        }
        results = {"schema_version": SCHEMA_VERSION, "provenance": provenance, "runs": runs}
        write_results(results, self.out / RESULTS)
        write_report(results, self.out)
        return results


def _read_questions(questions: Any, pair: Pair, limit: int | None, task: Task) -> tuple[str, list[Question]]:
    """Return the name of a question set, and its questions."""
    if isinstance(questions, str | Path):
        return Path(questions).name, load_questions(str(questions), pair, limit, task)
    source = open_user_data(questions, ("prompt",))
    rows = [(split, row) for split in ("train", "validation") for row in source.read(split)][:limit]
    if not rows:
        raise InputError("there are no questions: give at least one prompt")
    asked: dict[str, Question] = {}
    for split, row in rows:
        number = row["source_id"] if split == "train" else f"{split}, {row['source_id']}"  # both begin at 0
        name = str(row.get("id", number))
        if name in asked:
            raise InputError(f"{source.name}: id {name!r} is in several rows: give each row its own")
        asked[name] = Question(name, row["prompt"], row["prompt"], reference=row.get("reference"))
    return source.name, list(asked.values())
