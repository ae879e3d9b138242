"""From a YAML file and the command line to a recipe's arguments."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from drafter_trainer.cli.arguments import (
    CorpusArguments,
    DistillationArguments,
    DrafterArguments,
    FinetuneDataArguments,
    LanguageArguments,
    PublishedArguments,
    PublishingArguments,
    RunArguments,
    TargetArguments,
)
from drafter_trainer.cli.benchmark_arguments import (
    BaselineArguments,
    BenchmarkArguments,
    JudgeArguments,
    MedusaArguments,
    RouteArguments,
)
from drafter_trainer.cli.serving_arguments import ExportArguments, ServingArguments
from drafter_trainer.cli.tuning_arguments import PredictionArguments, TuningArguments
from drafter_trainer.errors import InputError
from drafter_trainer.training.arguments import (
    BaselineTrainingArguments,
    DrafterTrainingArguments,
    PretrainingArguments,
)

RECIPES = {
    "pretrain": (RunArguments, TargetArguments, CorpusArguments, DrafterArguments, PretrainingArguments),
    "distill": (RunArguments, TargetArguments, CorpusArguments, DistillationArguments),
    "finetune": (
        RunArguments,
        TargetArguments,
        FinetuneDataArguments,
        DrafterArguments,
        DrafterTrainingArguments,
        PublishingArguments,
    ),
    "predict": (RunArguments, TargetArguments, DrafterArguments, PredictionArguments),
    "tune": (RunArguments, TargetArguments, TuningArguments, PublishingArguments),
    "drafter": (RunArguments, LanguageArguments, PublishingArguments),
    "publish": (RunArguments, TargetArguments, PublishingArguments, PublishedArguments),
    "export": (RunArguments, TargetArguments, ExportArguments),
    "serve": (ServingArguments,),
    "bench": (RunArguments, TargetArguments, BenchmarkArguments),
    "medusa": (RunArguments, TargetArguments, MedusaArguments, BaselineTrainingArguments),
    "eagle": (RunArguments, TargetArguments, BaselineArguments, BaselineTrainingArguments),
    "judge": (JudgeArguments,),
    "route": (TargetArguments, RouteArguments),
}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def parse_arguments(
    recipe: str, argv: Sequence[str], description: str, tasks: Path | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Read a recipe's arguments; the command line overrides the file.

    Args:
        recipe (`str`): One of `RECIPES`.
        argv (`Sequence[str]`): The command line without the program's name.
        description (`str`): What `--help` says first.
        tasks (`Path`, *optional*): Folder of the tasks' files: the one that `task` names, on the command line or in
            the file, stands between the two.
    Returns:
        `tuple` of one object for each dataclass of the recipe, and of what was given for it, by key.
    Raises:
        InputError: If a key or value is wrong; the message names it.
    """
    parser = _Parser(RECIPES[recipe], description=description, prog=f"recipes/{recipe}.py", allow_abbrev=False)
    parser.add_argument("--config", help="YAML file; the command line overrides it")
    config = option_of(argv, "--config")
    from_file = read_config(Path(config), recipe) if config else {}
    task = option_of(argv, "--task") or from_file.get("task")
    if tasks is not None and task is not None:
        from_file |= _read_task(tasks, str(task), recipe)
    words = [word for key, value in from_file.items() for word in _as_options(key, value)] + [*argv]
    # Before the values are checked: a mistyped --pair would be reported as a missing one.
    _, unknown = parser.parse_known_args(words)
    if unknown:
        option, names = unknown[0].split("=")[0], [f"--{name}" for name in _keys()[recipe]]
        raise InputError(f"unknown option {option}{_suggest(option, names, recipe)}")
    try:
        *objects, _ = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except InputError:
        raise
    except ValueError as error:  # the libraries' own checks of values that do not go together
        raise InputError(" ".join(str(error).split())) from error
    named = {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    values = {key: value for entry in objects for key, value in vars(entry).items()}
    # --no_load_best_model_at_end is a setting of load_best_model_at_end.
    named |= {word.removeprefix("no_") for word in named}
    given = {key: values[key] for key in sorted(named | from_file.keys()) if key in values}
    return objects, given


def read_config(path: Path, recipe: str) -> dict[str, Any]:
    """Read a configuration's keys for one recipe.

    A file may name another one under `base`, relative to itself, whose keys it overrides. A key holds for every
    recipe that knows it; with a recipe's name before it, as in `finetune.learning_rate`, for that recipe alone.

    Raises:
        InputError: If a file is missing or malformed, or no recipe knows a key.
    """
    values = _read_with_base(path, ())
    known = _keys()
    everything = set().union(*known.values())
    plain: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, (value, place) in values.items():
        owner, dot, name = key.rpartition(".")
        if (dot and owner not in RECIPES) or name not in (known[owner] if dot else everything):
            names = [f"{step}.{entry}" for step in known for entry in known[step]] if dot else everything
            raise InputError(f"{place}: unknown key {key}{_suggest(key, names, recipe)}")
        if owner == recipe:
            special[name] = value
        elif not owner and name in known[recipe]:
            plain[name] = value
    return {key: value for key, value in (plain | special).items() if value is not None}


def _keys() -> dict[str, set[str]]:
    return {name: {entry.name for kind in kinds for entry in fields(kind)} for name, kinds in RECIPES.items()}


def _suggest(name: str, names: Iterable[str], recipe: str) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]}?" if close else f": see recipes/{recipe}.py --help"


def _read_with_base(path: Path, above: tuple[Path, ...]) -> dict[str, tuple[Any, Path]]:
    if path.resolve() in above:
        raise InputError(f"{path} names itself as its base")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: {_existing_configs(path)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: {_existing_configs(path / '*')}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, got {type(values).__name__}")
    base = values.pop("base", None)
    if not isinstance(base, str | None):
        raise InputError(f"{path}: base must be the name of one file, got {base!r}")
    inherited = _read_with_base(path.parent / base, (*above, path.resolve())) if base else {}
    return inherited | {str(key): (value, path) for key, value in values.items()}


def _existing_configs(path: Path) -> str:
    names = sorted(file.stem for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f"{path.parent} has {', '.join(names)}" if names else "name another one"


def _read_task(tasks: Path, task: str, recipe: str) -> dict[str, Any]:
    known = sorted(path.stem for path in tasks.glob("*.yaml") if path.stem != "common")
    if task not in known:
        raise InputError(f"unknown task {task}: the known ones are {', '.join(known)}; add {tasks}/{task}.yaml for it")
    return read_config(tasks / f"{task}.yaml", recipe)


def option_of(argv: Sequence[str], option: str) -> str | None:
    """Return what a command line gives for an option, before anything is parsed."""
    for word, following in zip(argv, [*argv[1:], None]):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _as_options(key: str, value: Any) -> list[str]:
    # Going through the parser, a value in YAML meets the same checks as one on the command line.
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value, default=str)]
    return [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
