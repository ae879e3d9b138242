"""Configurations: files over their base, the command line over both, and errors that name the key."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.cli import serve
from drafter_trainer.cli.arguments import RunArguments
from drafter_trainer.cli.bench import choose_questions
from drafter_trainer.cli.configuration import OPTIONS, parse_arguments
from drafter_trainer.cli.measuring_arguments import BenchmarkArguments
from drafter_trainer.cli.options import Options, arguments_of, parameter, split_engine_options
from drafter_trainer.errors import InputError

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
NEEDED = {"pair": "de-en", "drafter_name": "tiny-drafter-de-en", "target_model": "tiny", "corpus": "sample"}

PUBLISHED = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.name != "common.yaml")
assert PUBLISHED
OF_A_DRAFTER = [recipe for recipe, kinds in OPTIONS.items() if any(issubclass(kind, RunArguments) for kind in kinds)]


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with what every recipe needs."""
    return write(tmp_path / "needed.yaml", *(f"{key}: {value}" for key, value in NEEDED.items()))


def values(recipe: str, *argv: str | Path) -> dict[str, Any]:
    objects, _ = parse_arguments(recipe, [str(word) for word in argv], "Test.")
    return {entry.name: getattr(found, entry.name) for found in objects for entry in fields(found)}


def refusal(recipe: str, *argv: str | Path) -> str:
    """Parse what must be refused; return the message, which is one line."""
    with pytest.raises(InputError) as caught:
        parse_arguments(recipe, [str(word) for word in argv], "Test.")
    return str(caught.value)


def test_file_overrides_its_base_over_two_levels(tmp_path: Path, config: Path) -> None:
    """A pair's file stands over its target's, and that over one for all: the nearest must win, or take back."""
    write(tmp_path / "all" / "all.yaml", "base: ../needed.yaml", "seed: 1", "max_new_tokens: 1", "batch_size: 1")
    write(tmp_path / "target.yaml", "base: all/all.yaml", "max_new_tokens: 2", "batch_size: 2", "max_samples: 5")
    write(tmp_path / "pair.yaml", "base: target.yaml", "batch_size: 3", "max_samples: null")
    read = values("distill", "--config", tmp_path / "pair.yaml")
    assert (read["seed"], read["max_new_tokens"], read["batch_size"]) == (1, 2, 3)
    assert read["max_samples"] == []
    assert read["pair"] == "de-en"


MAPPING = {"chat_template_kwargs": {"enable_thinking": False}}
RATES = ("2e-5", "2.0e-5", "0.00002", "'2e-5'", "2E-5")
# Step, lines of its file, words of the command line, and what is read
READ = [
    ("distill", ["batch_size: 3"], ["--batch_size", "7"], {"batch_size": 7}),
    ("distill", ["batch_size: 3"], ["--batch-size=7"], {"batch_size": 7}),
    ("distill", ["temperatures: [0.0, 0.7]"], ["--temperatures", "1.0"], {"temperatures": [1.0]}),
    ("distill", ["temperatures: 0.5"], [], {"temperatures": [0.5]}),
    *(("finetune", [f"learning_rate: {rate}"], [], {"learning_rate": 2e-5}) for rate in RATES),
    ("distill", ["chat_template_kwargs: {enable_thinking: false}"], [], MAPPING),
    ("distill", [], ["--chat_template_kwargs", '{"enable_thinking": false}'], MAPPING),
    ("pretrain", ["corpus: [sample, 'file:a b.txt']"], [], {"corpus": ["sample", "file:a b.txt"]}),
    ("pretrain", ["freeze_embeddings: true"], [], {"freeze_embeddings": True}),
    ("pretrain", ["load_best_model_at_end: no"], [], {"load_best_model_at_end": False}),
]


@pytest.mark.parametrize(("step", "lines", "words", "expected"), READ)
def test_values_are_read_as_they_are_meant(tmp_path: Path, config: Path, step, lines, words, expected) -> None:
    """A value that is ignored, joined to another or left a text would be measured under the wrong name."""
    path = write(tmp_path / "pair.yaml", "base: needed.yaml", *lines)
    read = values(step, *words, f"--config={path}")
    assert {name: read[name] for name in expected} == expected


def test_what_was_given_is_told_apart_from_defaults(tmp_path: Path, config: Path) -> None:
    """A step records it: with defaults among it, a library's new default would undo every finished step."""
    write(tmp_path / "pair.yaml", "base: needed.yaml", "bench.task: story", "max_new_tokens: 2", "max_questions: 9")
    _, given = parse_arguments("distill", ["--config", str(tmp_path / "pair.yaml"), "--seed", "4"], "Test.")
    assert given == NEEDED | {"corpus": ["sample"], "max_new_tokens": 2, "seed": 4}
    # `--no_x` sets x: unrecorded, a step done with the other value would be taken for this one.
    objects, given = parse_arguments("finetune", ["--config", str(config), "--no_load_best_model_at_end"], "Test.")
    assert objects[4].load_best_model_at_end is False
    assert given["load_best_model_at_end"] is False


def test_key_with_a_recipe_s_name_holds_for_it_alone(tmp_path: Path, config: Path) -> None:
    """Pretraining would take finetuning's learning rate, or a plain one in a nearer file would win over it."""
    base = write(tmp_path / "base.yaml", "base: needed.yaml", "finetune.learning_rate: 1.0e-3", "num_train_epochs: 7")
    nearer = write(tmp_path / "pair.yaml", "base: base.yaml", "learning_rate: 5.0e-4")
    for path, plain in ((base, 3e-5), (nearer, 5e-4)):
        for recipe, rate in (("finetune", 1e-3), ("pretrain", plain)):
            read = values(recipe, "--config", path)
            assert (read["learning_rate"], read["num_train_epochs"]) == (rate, 7)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rat", "did you mean learning_rate?"),
        ("finetune.learning_rat", "did you mean finetune.learning_rate?"),
        ("fintune.learning_rate", "did you mean finetune.learning_rate?"),
        ("completely_unknown_thing", "see drafter-trainer finetune --help"),
        ("distill.loss_type", ""),
    ],
)
def test_unknown_key_is_named_with_its_file(tmp_path: Path, config: Path, key: str, hint: str) -> None:
    """A mistyped key that is passed over would leave a default in place of what was wanted."""
    write(tmp_path / "base.yaml", "base: needed.yaml", f"{key}: 1")
    message = refusal("finetune", "--config", write(tmp_path / "pair.yaml", "base: base.yaml"))
    assert message.startswith(f"{tmp_path / 'base.yaml'}: unknown key {key}: ")
    assert hint in message


def test_unknown_option_is_named(config: Path) -> None:
    """The command line needs the same care as a file; shortened options would change meaning with new ones."""
    assert refusal("finetune", "--config", config, "--learning_rat=1") == (
        "unknown option --learning_rat: did you mean --learning_rate?"
    )
    assert refusal("finetune", "--config", config, "--max_len", "1").startswith("unknown option --max_len: ")
    assert refusal("distill", "--pare", "de-en") == "unknown option --pare: did you mean --pair?"
    assert refusal("finetune", "--prompts", "x") == "unknown option --prompts: it belongs to distill, adapt, language"
    assert refusal("bench", "--config", config, "--kl_weight", "1").endswith("see drafter-trainer bench --help")
    assert "--config" in refusal("distill", "--config")  # a forgotten file name must not start a run with defaults


@pytest.mark.parametrize(
    ("line", "recipe", "said"),
    [
        ("max_samples: lots", "distill", "argument --max_samples: invalid int value: 'lots'"),
        ("freeze_embeddings: perhaps", "pretrain", "perhaps"),
        ("temperatures: [0.0, warm]", "distill", "argument --temperatures: invalid float value: 'warm'"),
        ("batch_size: 2.5", "distill", "argument --batch_size: invalid int value: '2.5'"),
        ("batch_size: [1, 2]", "distill", "2 belongs to no option"),
        ("corpus: []", "distill", "argument --corpus: expected at least one argument"),
        ("chat_template_kwargs: [1]", "distill", "chat_template_kwargs must be a JSON object, got '1'"),
        ("pair: de-xx", "distill", "unknown language 'xx'"),
        ("pair: ''", "distill", "no pair"),
        ("drafter_name: ''", "language", "no drafter_name"),
        ("target_model: ''", "bench", "no target_model"),
        ("temperatures: [-1.0]", "bench", "temperatures must be 0 or more"),
        ("batch_size: 0", "distill", "batch_size must be at least 1"),
        ("max_samples: [9, 0]", "distill", "max_samples must be one or two numbers of at least 1, got [9, 0]"),
        ("num_hidden_layers: 0", "pretrain", "num_hidden_layers must be at least 1"),
        ("config_overrides: {width: 3}", "pretrain", "config_overrides may have hidden_size,"),
        ("format: pickle", "publish", "format must be one of stock, compact, compact-int4, adapter:BASE, rows, got"),
        ("format: adapter", "publish", "adapter:BASE, rows, got adapter"),
        ("baselines: [without:nework]", "bench", "lookahead, medusa, eagle, early_exit, got without:nework"),
        ("baselines: [lookup:0]", "bench", "baselines must be lookup:TOKENS, without:SOURCE, alone:SOURCE, NAME="),
        ("initialization: 'layers:0,x'", "pretrain", "names layers as in layers:0,1,-1, got layers:0,x"),
        ("max_questions: [1, 2, 3]", "bench", "max_questions must be one or two numbers of at least 1, got [1, 2, 3]"),
        ("hub_token: secret", "finetune", "hub_token is not supported"),
        ("eval_strategy: 'no'", "finetune", "save and eval strategy"),
    ],
)
def test_value_out_of_range_is_refused(tmp_path: Path, config: Path, line: str, recipe: str, said: str) -> None:
    """What cannot work must end before a model is loaded, and a token must never reach a pickled file."""
    message = refusal(recipe, "--config", write(tmp_path / "pair.yaml", "base: needed.yaml", line))
    assert said in message
    assert "secret" not in message


def test_missing_file_lists_those_that_exist(tmp_path: Path, config: Path) -> None:
    """A mistyped pair must not leave the user guessing which there are, nor a folder in place of a file."""
    assert refusal("distill", "--config", tmp_path) == f"{tmp_path} is a folder: {tmp_path} has needed"
    write(tmp_path / "ru-en.yaml")
    assert refusal("distill", "--config", tmp_path / "ru_en.yaml") == (
        f"{tmp_path / 'ru_en.yaml'}: no such file: {tmp_path} has needed, ru-en"
    )
    missing = refusal("distill", "--config", tmp_path / "absent" / "de-en.yaml")
    assert missing.endswith("no such file: give another one")
    path = write(tmp_path / "pair.yaml", "base: common.yaml")
    assert "common.yaml: no such file" in refusal("distill", "--config", path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("base: pair.yaml", "is its own base"),
        ("pair: a: b", "is not YAML"),
        ("\tpair: de-en", "is not YAML"),
        ("", "expected keys and values, got NoneType"),
        ("- pair", "expected keys and values, got list"),
        ("base: [a.yaml, b.yaml]", "base must be the name of one file"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, content: str, said: str) -> None:
    """A YAML error without the file's name could lie in any of three."""
    message = refusal("distill", "--config", write(tmp_path / "pair.yaml", content))
    assert message.startswith(str(tmp_path / "pair.yaml"))
    assert said in message


def test_help_begins_with_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    """The project's own options would be lost among 120 of the Hugging Face Trainer."""
    with pytest.raises(SystemExit):
        parse_arguments("finetune", ["--help"], "Test.")
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["options:", "run:", "target:", "data:", "drafter:", "training:"]
    assert any("--learning_rate" in line for line in lines)
    assert not any("--adam_beta1" in line for line in lines)


def test_parameters_are_options_as_their_function_describes_them() -> None:
    """An option that is described apart from the function drifts from it: another default, or a text of before."""

    def measure(
        *, places: Sequence[float] = (0.0, 1.0), folder: str | Path | None = None, times: int = 3, left: Any = ()
    ) -> None:
        """Measure.

        Args:
            places (`Sequence[float]`, *optional*): Where it is measured;
                "all" of them.
            folder, times (`int`): Of `both`.
        Raises:
            ValueError: Never.
        """

    @dataclass
    class Group(Options):
        places: list[float] = parameter(measure, "places")
        folder: str | None = parameter(measure, "folder")
        times: int = parameter(measure, "times", 5)

    help_texts = [entry.metadata["help"] for entry in fields(Group)]
    assert help_texts == ["Where it is measured; all of them", "Of both", "Of both"]
    expected = {"places": [0.0, 1.0], "folder": None, "times": 5, "left": 1}
    assert arguments_of(measure, Group(), {"left": 1, "other": 2}) == expected
    with pytest.raises(InputError, match="times must be at least 1, got 0"):
        Group(times=0)


@pytest.mark.parametrize("recipe", OPTIONS)
def test_help_lists_every_option(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One per cent sign in a help text is enough to break --help of a recipe, which nothing else runs."""
    with pytest.raises(SystemExit) as caught:
        parse_arguments(recipe, ["--help_all"], "Say what it does.")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Say what it does." in shown
    options = {entry.name for kind in OPTIONS[recipe] for entry in fields(kind) if entry.init}
    assert not {name for name in options if f"--{name}" not in shown}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_configuration_is_read_by_every_recipe(path: Path) -> None:
    """A renamed option would break the commands of the README, file by file."""
    pair = ["--pair", "en-oci"] if path.stem == "language" else []  # that is for whatever language is named
    for recipe in OF_A_DRAFTER:
        (run, *_), given = parse_arguments(recipe, ["--config", str(path), *pair], "Test.")
        assert run.drafter_name.endswith(f"-drafter-{run.pair}")
        assert recipe == "language" or given["target_model"]  # which leaves the target to its steps


def bench(*argv: str | Path) -> BenchmarkArguments:
    objects, _ = parse_arguments("bench", [str(word) for word in argv], "Test.")
    return next(found for found in objects if isinstance(found, BenchmarkArguments))


def test_task_s_questions_stand_between_the_configuration_and_the_command_line(tmp_path: Path, config: Path) -> None:
    """A pair's own questions are translations; a story asked from them would be none."""
    path = write(tmp_path / "pair.yaml", "base: needed.yaml", "questions: wmt16")

    def asked(*argv: str | Path) -> str:
        return choose_questions(bench(*argv), [str(word) for word in argv])

    assert asked("--config", path, "--task", "conversation") == "mt-bench"
    assert asked("--config", path, "--task", "conversation", "--questions", "q.jsonl") == "q.jsonl"
    assert asked("--config", path) == "wmt16"
    assert asked("--config", path, "--task", "summarization") == "wmt16"
    assert asked("--config", config) == "sample"
    assert asked("--config", write(tmp_path / "named.yaml", "base: pair.yaml", "task: story")) == "sample"


def test_one_option_names_all_that_is_compared(config: Path) -> None:
    """A baseline that is left out, or measured under another's name, makes the table a lie."""
    given = ["lookup:3", "two=org/b=c", "alone:ngram", "medusa", "lookup:5", "without:network", "one=a", "stock_loop"]
    found = bench("--config", config, "--baselines", *given)
    others = {"two": "org/b=c", "one": "a"}
    sources = {"without": ["network"], "alone": ["ngram"]}
    assert found.compared == sources | {"prompt_lookup_tokens": [3, 5], "against": others, "stock_loop": True}
    assert found.literature == ["medusa"]
    assert "prompt_lookup_tokens" not in bench("--config", config).compared
    for wrong in (["one"], ["one="], ["=folder"], ["one=a", "one=b"]):
        assert "baselines must be" in refusal("bench", "--config", config, "--baselines", *wrong)


def test_layers_of_the_target_are_named_in_one_option(config: Path) -> None:
    """Steps of earlier releases record the layers under a key of their own; they would be done again."""
    given_options = ["--config", str(config), "--initialization", "layers:0,-1"]
    (*_, shape, _), given = parse_arguments("pretrain", given_options, "Test.")
    assert (shape.options()["initialization"], shape.options()["layers"]) == ("layers", [0, -1])
    assert (given["initialization"], given["initial_layers"]) == ("layers", [0, -1])


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("hub", ("hub", None, None)),
        ("hub:org/name", ("hub", "org/name", None)),
        ("hub:org/name@v2", ("hub", "org/name", "v2")),
        ("hub:@v2", ("hub", None, "v2")),
        ("runs/hub:one@two", ("runs/hub:one@two", None, None)),
    ],
)
def test_one_option_names_the_place(config: Path, to: str, expected: tuple[str | None, ...]) -> None:
    """A drafter would be pushed over another one, or into a folder that is called as the repository."""
    given = ["--config", str(config), "--to", to, "--format", "adapter:org/base"]
    (*_, publishing), _ = parse_arguments("publish", given, "Test.")
    destination, how = publishing.destination(), publishing.spelled_out()
    assert (destination.to, destination.repo_id, destination.revision) == expected
    assert (how["format"], how["adapter_of"]) == ("stock", "org/base")


def test_engine_has_options_of_its_own_behind_two_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's option that is taken for one of ours, or lost, leaves it with settings that nobody chose."""
    argv = ["--target", "t", "--drafter", "d", "--sources", "network", "--", "--seed", "1", "--"]
    own, words = split_engine_options(argv)
    assert (own, words) == (argv[:6], ["--seed", "1", "--"])
    assert split_engine_options(own) == (own, [])
    assert parse_arguments("serve", own, "Test.")[0][0].part == "network"
    assert parse_arguments("serve", own[:4], "Test.")[0][0].part == "whole"
    assert "must be empty or network, got lookup" in refusal("serve", *own[:5], "lookup")
    asked = {}
    monkeypatch.setattr(serve, "serve", lambda **given: asked.update(given) or nullcontext())
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    with pytest.raises(AttributeError):  # of a server that nobody started
        serve.main([*own, "--", "--port", "8001"])
    assert (asked["port"], asked["options"], asked["part"]) == (8001, ["--port", "8001"], "network")


def test_pair_stands_in_the_drafters_name(config: Path) -> None:
    """One configuration for all languages must not publish them under one name."""
    options = ["--config", str(config), "--pair", "oci", "--drafter_name", "tiny-drafter-{pair}"]
    (run, *_), given = parse_arguments("bench", options, "Test.")
    assert (run.pair, run.drafter_name, run.run_folder) == ("oc-oc", "tiny-drafter-oc", "runs/tiny-drafter-oc")
    assert given["drafter_name"] == "tiny-drafter-oc"
    (run, *_), _ = parse_arguments("language", options, "Test.")  # which translates from English
    assert (run.pair, run.drafter_name) == ("en-oc", "tiny-drafter-en-oc")
