"""Measure a drafter against plain decoding, prompt lookup and others, on questions."""

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
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, read_languages
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.repository import Repository, target_of
from drafter_trainer.results import RESULTS, SCHEMA_VERSION, Results, read_results, write_results
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target

JOURNAL = "journal.jsonl"


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
    """Measure a drafter, batch 1, all methods interleaved prompt by prompt.

    Interrupted, it goes on with the question that it was at; done before with the same settings, it is not done again.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of the drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; the one that the drafter names, on the
            Hub, if left out.
        questions (`str` or `Iterable`, *optional*, defaults to `"sample"`): A question set by name ("sample", "wmt16",
            "file:PATH", "mt-bench", or the path of a Spec-Bench file), or prompts of your own: a dataset or a list of
            texts, or of rows with `prompt` and, where there is one, a `reference` to score completions against.
        output_dir (`str` or `Path`, *optional*): Folder of `results.json`, `report.html`, `report.md`, `plots/` and
            `outputs.jsonl` (the completions); a drafter's own folder if left out.
        languages (`str` or `Iterable[str]`, *optional*): Pair or language of the questions; the drafter's if left out.
        task (`str`, *optional*, defaults to `"translation"`): Name of the task. One of `corpora.tasks.TASKS` also
            says which categories of a Spec-Bench file are asked, and how many turns of a conversation.
        max_questions (`int`, *optional*): Maximum number of questions; all if left out.
        max_sampling_questions (`int`, *optional*): Maximum number of questions at temperatures above 0.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 1.0)`): Sampling temperatures; 0 is greedy.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): Seeds of each temperature above 0.
        max_new_tokens (`int`, *optional*, defaults to `128`): Maximum number of tokens of a completion.
        repeats (`int`, *optional*, defaults to `1`): Number of timings of each prompt, odd; the median counts.
        prompt_lookup_tokens (`Sequence[int]`, *optional*, defaults to `(10,)`): Draft lengths of prompt lookup,
            each of them a method.
        against (`Mapping[str, str]`, *optional*): Other drafters to measure, by name: folder or Hub id.
        pretrained (`str`, *optional*): The drafter before finetuning: folder or Hub id.
        without (`Sequence[str]`, *optional*): Draft sources to leave out, one at a time: "lookup", "ngram", "network".
        alone (`Sequence[str]`, *optional*): Draft sources to measure alone: "lookup", "ngram", "network".
        stock_loop (`bool`, *optional*, defaults to `False`): Also measure the drafter in transformers' own loop.
        follow_clock (`bool`, *optional*, defaults to `True`): As for `load_drafter`.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; that of its checkpoint by default.
        other_methods (callable, *optional*): From the target and its model to more methods of the table.
        other_inputs (`Mapping[str, str]`, *optional*): What identifies what these read.
    Returns:
        `dict`: The contents of `results.json`.
    Raises:
        InputError: If there is no such drafter or target, or the questions cannot be asked.
    """
    if repeats % 2 == 0:
        raise InputError(f"repeats must be odd, so that their median was measured itself, got {repeats}")
    place, against = str(drafter), dict(against or {})
    repository = Repository.open(place)
    description, target = repository.description, target_of(place, target)
    opened = {name: Repository.open(other) for name, other in against.items()}
    if output_dir is None and not Path(place).is_dir():
        raise InputError("name an output_dir: the drafter lies on the Hub")
    out, pair = Path(output_dir or place), pair_of(description, languages)
    source, asked = read_questions(questions, pair, max_questions, TASKS.get(task) or Task(task))
    inputs = {
        "target": target.identity,
        "drafter": repository.identity,
        "pretrained": Repository.open(pretrained).identity if pretrained else "none",
        "questions": hash_questions(asked),
        **{f"against {name}": other.identity for name, other in opened.items()},
        **(other_inputs or {}),
    }
    settings = {
        "pair": str(pair),
        "task": task,
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
    step = Step(out / "bench", "bench", settings, inputs)
    journal, outputs = step.folder / JOURNAL, out / OUTPUTS
    if step.is_finished() and (out / RESULTS).is_file():
        if not outputs.is_file():  # as an earlier release left it
            write_outputs(read_journal(journal), outputs)
        return read_results(out / RESULTS)
    chat = target.load_chat()
    target_model = target.load_model(dtype, PartialState().device)

    def load(place: str) -> PreTrainedModel:
        return load_drafter(place, target_model, chat.tokenizer, follow_clock=follow_clock)

    main, loaded = load(place), {name: load(other) for name, other in against.items()}
    before = None
    if pretrained:
        before = AutoModelForCausalLM.from_pretrained(pretrained, dtype=target_model.dtype)
        before.to(target_model.device).eval()
    stock_length = description.draft_length if stock_loop else None
    methods = build_methods(main, before, prompt_lookup_tokens, without, stock_length, alone, loaded)
    if other_methods:  # the drafter stays the last of the table
        methods[-1:-1] = other_methods(target, target_model)
    names = [method.name for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two methods are called {twice}: name each once")
    with step:
        runs = []
        for setting in _settings(temperatures, seeds, max_new_tokens):
            chosen = asked if setting.temperature == 0 else asked[:max_sampling_questions]
            records = measure(target_model, chat, chosen, methods, setting, journal, repeats)
            said = {
                "pair": str(pair),
                "task": task,
                "draft_length": main.generation_config.num_assistant_tokens,
                "repeats": repeats,
                "follow_clock": follow_clock,
                "dtype": str(target_model.dtype).removeprefix("torch."),
                "questions": {"source": source, "count": len(chosen), "sha256": hash_questions(chosen)},
            }
            runs.append(summarize_run(records, methods, setting, said))
            add_quality(runs[-1], records, chosen, pair.target)
            add_language_share(runs[-1], records, pair.target)
        write_outputs(read_journal(journal), outputs)
        results = write_measured(runs, target, description, inputs["drafter"], out)
    return results


def write_measured(
    runs: list[dict[str, Any]], target: Target, description: DrafterDescription, revision: str, out: Path
) -> Results:
    """Write the results of a drafter's runs and their report to a folder, and return the results.

    Args:
        revision (`str`): The drafter's commit, or the hash of its folder.
    """
    provenance = {
        "target": target.identity,
        "drafter": description.name,
        "drafter_revision": revision,
        "drafter_fingerprint": description.fingerprint(),
    }
    results = {"schema_version": SCHEMA_VERSION, "provenance": collect_provenance() | provenance, "runs": runs}
    write_results(results, out / RESULTS)
    write_report(results, out)
    return results


def pair_of(description: DrafterDescription, languages: str | Iterable[str] | None) -> Pair:
    """Return the pair of the questions; of one language that language on both sides."""
    if not languages:
        return description.asked
    spoken, pair = read_languages(languages)
    return pair or Pair(spoken[0], spoken[0])


def read_questions(questions: Any, pair: Pair, limit: int | None, task: Task) -> tuple[str, list[Question]]:
    """Read questions; return what their source is called, too."""
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
            raise InputError(f"{source.name}: id {name!r} stands in several rows: give each its own")
        asked[name] = Question(name, row["prompt"], row["prompt"], reference=row.get("reference"))
    return source.name, list(asked.values())


def _settings(temperatures: Sequence[float], seeds: Sequence[int], max_new_tokens: int) -> list[Setting]:
    return [
        Setting(temperature, seed, max_new_tokens)
        for temperature in temperatures
        for seed in (seeds if temperature > 0 else [0])
    ]
