"""From a YAML file and the command line to the options of a step."""

import argparse
import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments

from drafter_trainer.cli.arguments import (
    AdaptationArguments,
    CorpusArguments,
    DistillationArguments,
    DrafterArguments,
    LanguageArguments,
    LanguageRunArguments,
    RowsArguments,
    RunArguments,
    TargetArguments,
)
from drafter_trainer.cli.measuring_arguments import (
    BenchmarkArguments,
    PredictionArguments,
    TuningArguments,
)
from drafter_trainer.cli.publishing_arguments import PublishingArguments
from drafter_trainer.cli.serving_arguments import ExportArguments, ServingArguments
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.training.arguments import (
    BaselineTrainingArguments,
    DrafterTrainingArguments,
    PretrainingArguments,
)

OPTIONS = {
    "pretrain": (RunArguments, TargetArguments, CorpusArguments, DrafterArguments, PretrainingArguments),
    "distill": (RunArguments, TargetArguments, CorpusArguments, DistillationArguments),
    "finetune": (RunArguments, TargetArguments, RowsArguments, DrafterArguments, DrafterTrainingArguments),
    "predict": (RunArguments, TargetArguments, DrafterArguments, PredictionArguments),
    "adapt": (AdaptationArguments,),
    "tune": (RunArguments, TargetArguments, TuningArguments),
    "language": (LanguageRunArguments, LanguageArguments, PublishingArguments),
    "publish": (RunArguments, TargetArguments, PublishingArguments),
    "export": (RunArguments, TargetArguments, ExportArguments),
    "serve": (ServingArguments,),
    "bench": (RunArguments, TargetArguments, BenchmarkArguments),
    "medusa": (RunArguments, TargetArguments, RowsArguments, BaselineTrainingArguments),
    "eagle": (RunArguments, TargetArguments, RowsArguments, BaselineTrainingArguments),
}
# Of the Hugging Face Trainer's options, those that are worth knowing; --help_all lists them all.
_SHOWN = {
    "bf16",
    "gradient_accumulation_steps",
    "learning_rate",
    "num_train_epochs",
    "output_dir",
    "per_device_train_batch_size",
    "seed",
    "use_cpu",
}
_HELP_ALL = "--help_all"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options by their own names alone, with their defaults."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if "-" not in name[2:]]
        return ", ".join(names) if names else super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        told = "(default" in action.help or action.default in (None, "", [], argparse.SUPPRESS)
        return action.help if told else f"{action.help} (default: %(default)s)"


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def parse_arguments(step: str, argv: Sequence[str], description: str) -> tuple[list[Any], dict[str, Any]]:
    """Read the options of a step; the command line overrides the file.

    Returns:
        `tuple` of one object for each dataclass of the step, and of the values that were given, by key.
    """
    parser = _Parser(
        OPTIONS[step],
        description=description,
        prog=f"drafter-trainer {step}",
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--config", help="YAML file of options; the command line overrides it")
    _show(parser, _HELP_ALL in argv)
    config = option_of(argv, "--config")
    from_file = read_config(Path(config), step) if config else {}
    words = [word for key, value in from_file.items() for word in _as_options(key, value)] + [*argv]
    # Before the values are checked: a mistyped --pair would be reported as a missing one.
    _, unknown = parser.parse_known_args(words)
    if unknown:
        option, names = unknown[0].split("=")[0], [f"--{name}" for name in _keys()[step]]
        raise InputError(f"unknown option {option}{_suggest(option, names, step)}")
    try:
        *objects, _ = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except InputError:
        raise
    except ValueError as error:  # the libraries' own checks of values that do not go together
        raise InputError(one_line(error)) from error
    _name_drafter(objects)
    named = {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    values = {key: value for entry in objects for key, value in vars(entry).items()}
    # --no_load_best_model_at_end is a setting of load_best_model_at_end.
    named |= {word.removeprefix("no_") for word in named}
    given = {key: values[key] for key in sorted(named | from_file.keys()) if key in values}
    return objects, given


def _name_drafter(objects: Iterable[Any]) -> None:
    """Name a drafter without a name after its target."""
    kinds = {type(entry): entry for entry in objects}
    run, where = kinds.get(RunArguments, kinds.get(LanguageRunArguments)), kinds.get(TargetArguments)
    if run is not None and not run.drafter_name:
        if where is None:
            raise InputError("no drafter_name: give --drafter_name <target>-drafter-<pair>, or a --config that has it")
        name, place = where.name_and_place()
        run.name_after(name or place)


def simple_parser(step: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a step that reads no configuration."""
    return argparse.ArgumentParser(
        prog=f"drafter-trainer {step}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _show(parser: argparse.ArgumentParser, everything: bool) -> None:
    """Let `--help` list the options in groups, and of the Hugging Face Trainer's those that are worth knowing."""
    parser.add_argument(_HELP_ALL, action="help", help="List all options of the Hugging Face Trainer, too")
    if everything:
        return
    hidden = {entry.name for entry in fields(TrainingArguments)} - _SHOWN
    for action in parser._actions:
        switches_off = any(name.startswith("--no_") for name in action.option_strings)
        if switches_off or action.dest in hidden:
            action.help = argparse.SUPPRESS


def read_config(path: Path, step: str) -> dict[str, Any]:
    """Read a configuration's keys for one step.

    A file may name another one under `base`, relative to itself, whose keys it overrides. A key holds for every
    step that knows it; with a step's name before it, as in `finetune.learning_rate`, for that step alone.
    """
    values = _read_with_base(path, ())
    known = _keys()
    everything = set().union(*known.values())
    plain: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, (value, place) in values.items():
        owner, dot, name = key.rpartition(".")
        if (dot and owner not in OPTIONS) or name not in (known[owner] if dot else everything):
            names = [f"{other}.{entry}" for other in known for entry in known[other]] if dot else everything
            raise InputError(f"{place}: unknown key {key}{_suggest(key, names, step)}")
        if owner == step:
            special[name] = value
        elif not owner and name in known[step]:
            plain[name] = value
    return {key: value for key, value in (plain | special).items() if value is not None}


def _keys() -> dict[str, set[str]]:
    return {name: {entry.name for kind in kinds for entry in fields(kind)} for name, kinds in OPTIONS.items()}


def _suggest(name: str, names: Iterable[str], step: str) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]}?" if close else f": see drafter-trainer {step} --help"


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
        raise InputError(f"{path} is not YAML: {one_line(error)}") from error
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
