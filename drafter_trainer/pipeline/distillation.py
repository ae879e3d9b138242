"""A distillation: prompts that are read once, a folder that gets what it lacks, and what is counted in it."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.questions import question_texts
from drafter_trainer.distillation.collect import collect_completions, survey
from drafter_trainer.distillation.engines import Engine
from drafter_trainer.distillation.prompts import (
    ANY_LANGUAGE,
    FIXED,
    PromptMaker,
    PromptSource,
    load_prompts,
    prompts_file,
    write_prompts,
)
from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.reuse import is_whole, reuse_rows
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.store import SPLITS, RowStore
from drafter_trainer.drafters.description import hash_file
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, get_language, is_spaced, read_languages
from drafter_trainer.runs import Step
from drafter_trainer.targets import as_target
from drafter_trainer.training.rows import Rows

_VALIDATION_SEED = 1 << 32  # far from the seeds of training, where prompts are alike (a start token)
_SPLIT_OF = 20  # of so many prompts for training one is held out, where a number is given for training alone


class Distillation:
    """A folder of rows, and the target that fills it."""

    def __init__(
        self,
        target: Any,
        folder: Path,
        languages: str | Iterable[str] | None,
        evaluation_questions: Sequence[str],
        exclude: Iterable[str],
        dtype: str,
    ) -> None:
        self.target = as_target(target)
        self.folder, self.dtype = folder, dtype
        self.languages, self.pair = read_languages(languages)
        # In which language the completions are: of a pair the second, of several it is not known.
        self.spoken = self.pair.target if self.pair else (self.languages[0] if len(self.languages) == 1 else None)
        self.questions, self.exclude = [*evaluation_questions], [*exclude]
        self.state = PartialState()
        self._model = target if isinstance(target, PreTrainedModel) else None

    def load_model(self) -> PreTrainedModel:
        """Load the target, once."""
        if self._model is None:
            self._model = self.target.load_model(self.dtype, self.state.device)
        return self._model

    def run(
        self,
        sources: list[PromptSource],
        settings: dict[str, Any],
        batch_size: int,
        start: Callable[[ChatTokenizer], tuple[Engine, Scorer | None]],
    ) -> Rows:
        """Fill the folder.

        Args:
            start (callable): Makes the engine, and what scores its completions; weights are loaded by it.
        """
        state, rows = self.state, Rows(self.folder, self.target, self.languages, self.pair)
        settings = self._record(settings)
        inputs = {"target": self.target.identity} | {each.name: str(each.facts) for each in sources}
        files = {name: Path(name.removeprefix("file:")) for name in self.questions}
        inputs |= {f"questions {name}": hash_file(path) for name, path in files.items() if path.is_file()}
        if self.target.chat_template is not None:
            inputs["chat_template"] = hashlib.sha256(self.target.chat_template.encode()).hexdigest()
        step = Step(self.folder, "distill", settings, inputs, state.is_main_process, FIXED)
        if step.is_finished() and is_whole(self.folder, step.facts):
            return rows
        chat = self.target.load_chat()
        engine = scorer = None
        if not step.difference or not step.earlier["finished"]:
            engine, scorer = start(chat)
        file = prompts_file(settings, inputs | {"target": self.target.revision})
        asked, dropped = self._requests(sources, settings, chat, file)
        if step.difference and reuse_rows(step, asked, settings.get("teacher_forcing", False)):
            return rows
        state.wait_for_everyone()  # nobody writes before all have seen what is there
        if engine is None:
            engine, scorer = start(chat)
        if state.is_main_process:
            rows.write()
        process = (state.process_index, state.num_processes)
        stopped = self.target.stop and settings["engine"] != "text"
        with step:
            for split, (requests, store) in asked.items():
                collect_completions(
                    requests,
                    engine,
                    store,
                    batch_size,
                    self.spoken.name if self.spoken else ANY_LANGUAGE,
                    chat.tokenizer.all_special_ids,
                    process,
                    settings.get("drop_looping", False),
                    self.target.end_ids(chat.tokenizer) if stopped else (),
                )
                if scorer is not None:
                    state.wait_for_everyone()  # what the others have stored is scored too
                    scorer.score_store(store, process)
                state.wait_for_everyone()
                if state.is_main_process:
                    drops = dict(dropped[split] + store.drops())
                    counts = store.count() | survey(store, chat.tokenizer)
                    step.facts[split] = {"prompts": requests.prompts} | counts | {"dropped": drops}
                    for path in (self.folder / split).glob("prompts*.arrow"):
                        if path.name != file:
                            path.unlink()
            step.facts["corpora"] = [each.facts for each in sources]
        return rows

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Complete the settings that a step remembers; of what is as by default none stand there."""
        target = self.target
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
        return {name: value for name, value in settings.items() if value is not None}

    def _requests(
        self, sources: list[PromptSource], settings: dict[str, Any], chat: ChatTokenizer, file: str
    ) -> tuple[dict[str, tuple[Requests, RowStore]], dict[str, Any]]:
        """Read the prompts of each split, unless they are there; return what is asked for, and what was dropped."""
        state, target = self.state, self.target
        limit = settings.get("max_samples")
        held_out = settings.get("max_validation_samples", max(1, limit // _SPLIT_OF) if limit else None)
        stores = {split: RowStore(self.folder / split, writer=state.process_index) for split in SPLITS}
        # Keys are made with the name that the target had when it gave the first row.
        names = {store.target_name(target.revision) for store in stores.values()} - {None}
        target = replace(target, name=min(names, default=target.name))
        seed, asked, dropped = settings.get("seed", 0), {}, {}
        for split, most, first in (("train", limit, seed), ("validation", held_out, seed + _VALIDATION_SEED)):
            path = self.folder / split / file
            with state.main_process_first():
                if not path.is_file():
                    maker = PromptMaker(chat, self._decontaminator(), most)
                    made = (source.make(split, maker) for source in sources)
                    write_prompts(itertools.chain.from_iterable(made), path, maker.drops)
            prompts, dropped[split] = load_prompts(path)
            asked[split] = (
                Requests(
                    prompts,
                    settings.get("temperatures", [None]),
                    settings.get("samples", 1),
                    first,
                    settings["max_new_tokens"],
                    self.pair or "",
                    target,
                    target.context,
                ),
                stores[split],
            )
        if not len(asked["train"][0]):
            named = ", ".join(source.name for source in sources)
            raise InputError(f"{named} gives no prompts (left out: {dict(dropped['train']) or 'nothing'})")
        return asked, dropped

    def _decontaminator(self) -> Decontaminator:
        spoken = self.spoken or get_language("en")
        questions = question_texts(self.questions, self.pair or Pair(spoken, spoken))
        return Decontaminator(itertools.chain(questions, ((text, is_spaced(text)) for text in self.exclude)))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
