"""The options of a step, read from a YAML file and the command line."""

import argparse
import difflib
import json
import re
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
    ExportArguments,
    PredictionArguments,
    ServingArguments,
    TuningArguments,
)
from drafter_trainer.cli.publishing_arguments import PublishingArguments
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments

OPTIONS: dict[str, tuple[type, ...]] = {
    "pretrain": (RunArguments, TargetArguments, CorpusArguments, DrafterArguments, PretrainingArguments),
    "distill": (RunArguments, TargetArguments, CorpusArguments, DistillationArguments),
    "finetune": (RunArguments, TargetArguments, RowsArguments, DrafterArguments, DrafterTrainingArguments),
    "predict": (RunArguments, TargetArguments, DrafterArguments, PredictionArguments),
    "adapt": (AdaptationArguments,),
    "tune": (RunArguments, TargetArguments, CorpusArguments, TuningArguments),
    "language": (LanguageRunArguments, LanguageArguments, PublishingArguments),
    "publish": (RunArguments, TargetArguments, PublishingArguments),
    "export": (RunArguments, TargetArguments, ExportArguments),
    "serve": (ServingArguments,),
    "bench": (RunArguments, TargetArguments, BenchmarkArguments),
}
# Recipes that only a clone has; configurations may have their keys. `benchmarks.baselines` declares their options.
_OF_A_CLONE = ("medusa", "eagle")
# The options of the Hugging Face Trainer that --help lists; --help_all lists all of them.
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
    """A formatter of help texts that lists each option under one spelling, with its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if "-" not in name[2:]]
        return ", ".join(names) if names else super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = "default" not in action.help and action.default not in (None, "", [], argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if has_default else action.help


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(?<=\w)/--[\w-]+", "", message)  # other spellings of an option
        raise InputError(f"{message} (--help lists the options)")


def parse_arguments(
    step: str, argv: Sequence[str], description: str, kinds: Sequence[type] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """Read the options of a step; the command line overrides the configuration.

    Args:
        kinds (`Sequence[type]`, *optional*): Dataclasses of a step that is not in `OPTIONS`.
    Returns:
        `tuple` of one object for each dataclass of the step, and of the given values by option.
    """
    kinds = kinds or OPTIONS[step]
    parser = _Parser(
        kinds,
        description=description,
        prog=f"drafter-trainer {step}" if step in OPTIONS else f"{step}.py",
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--config", help="YAML file of options; the command line overrides it")
    parser.add_argument(_HELP_ALL, action="help", help="List all options, including those of the Hugging Face Trainer")
    if _HELP_ALL not in argv:
        hidden = {entry.name for entry in fields(TrainingArguments)} - _SHOWN
        for action in parser._actions:
            if action.dest in hidden or any(name.startswith("--no_") for name in action.option_strings):
                action.help = argparse.SUPPRESS
    config = option_of(argv, "--config")
    from_file = read_config(Path(config), step, kinds) if config else {}
    words = [word for key, value in from_file.items() for word in _as_options(key, value)] + [*argv]
    # Checked first, since a mistyped --pair would otherwise be reported as a missing one.
    for option in (word.split("=")[0] for word in argv if word.startswith("--")):
        if option not in parser._option_string_actions:
            name, names = option[2:].replace("-", "_"), [f"--{name}" for name in _names(kinds)]
            owners = [other for other, types in OPTIONS.items() if name in _names(types)]
            advice = f": it belongs to {', '.join(owners)}" if owners else _suggest(option, names, step)
            raise InputError(f"unknown option {option}{advice}")
    try:
        *objects, _, rest = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError:
        raise
    except ValueError as error:  # the libraries' own checks of incompatible values
        raise InputError(one_line(error)) from error
    if rest:
        raise InputError(f"{rest[0]} belongs to no option (--help lists the options)")
    if isinstance(run := objects[0], RunArguments):
        target = next((entry for entry in objects if isinstance(entry, TargetArguments)), None)
        name, location = target.name_and_location() if target else (None, None)
        run.fill_in(name or location)
    values = {key: value for entry in objects for key, value in vars(entry).items()}
    named = {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")} | from_file.keys()
    # --no_load_best_model_at_end is a setting of load_best_model_at_end.
    named |= {word.removeprefix("no_") for word in named}
    if "initialization" in named and values["initial_layers"]:
        named.add("initial_layers")
    return objects, {key: values[key] for key in sorted(named) if key in values}


def read_config(path: Path, step: str, kinds: Sequence[type] = ()) -> dict[str, Any]:
    """Read a configuration's keys for one step; `kinds` is as for `parse_arguments`.

    A file may give another file as `base`, by a relative path, and overrides its keys. A key applies to every step
    with this option; with the name of a step before it, as in `finetune.learning_rate`, it applies to this step only.
    """
    known = {name: _names(types) for name, types in ({step: kinds} | OPTIONS if kinds else OPTIONS).items()}
    everything = set().union(*known.values())
    plain: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, (value, file) in _read_with_base(path, ()).items():
        owner, dot, name = key.rpartition(".")
        if owner in _OF_A_CLONE and owner != step:
            continue
        if (dot and owner not in known) or name not in (known[owner] if dot else everything):
            names = [f"{other}.{entry}" for other in known for entry in known[other]] if dot else everything
            raise InputError(f"{file}: unknown key {key}{_suggest(key, names, step)}")
        if owner == step:
            special[name] = value
        elif not owner and name in known[step]:
            plain[name] = value
    return {key: value for key, value in (plain | special).items() if value is not None}


def _names(kinds: Iterable[type]) -> set[str]:
    return {entry.name for kind in kinds for entry in fields(kind)}


def _suggest(name: str, names: Iterable[str], step: str) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]}?" if close else f": see drafter-trainer {step} --help"


def _read_with_base(path: Path, above: tuple[Path, ...]) -> dict[str, tuple[Any, Path]]:
    if path.resolve() in above:
        raise InputError(f"{path} is its own base: remove or correct one of the keys base")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: {_existing_configs(path.parent)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: {_existing_configs(path)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, got {type(values).__name__}")
    base = values.pop("base", None)
    if not isinstance(base, str | None):
        raise InputError(f"{path}: base must be the name of one file, got {base!r}")
    inherited = _read_with_base(path.parent / base, (*above, path.resolve())) if base else {}
    return inherited | {str(key): (value, path) for key, value in values.items()}


def _existing_configs(folder: Path) -> str:
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    return f"{folder} has {', '.join(names)}" if names else "give another one"


def option_of(argv: Sequence[str], option: str) -> str | None:
    """Return the value that a command line gives for an option, before the command line is parsed."""
    for word, following in zip(argv, [*argv[1:], None]):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _as_options(key: str, value: Any) -> list[str]:
    # The parser checks values of a file in the same way as values of the command line.
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value, default=str)]
    return [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
