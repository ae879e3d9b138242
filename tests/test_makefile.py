"""The commands of the README: what make passes on, and what it keeps to itself."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository, its install steps taken for done."""
    command = ["make", "--assume-old=.venv/.installed", "--assume-old=.venv/.weights", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)


def test_pair_comes_from_the_command_line() -> None:
    """`make bench LANG=fr-en` is how a pair is named."""
    given = ("LANG=fr-en", "QUESTIONS=q.jsonl", "OUT=out", "DRAFTER=org/drafter", "TASK=story")
    command = " ".join(make("--dry-run", "bench", *given).stdout.replace("\\\n", " ").split())
    assert "recipes/configs/gemma-3-270m/fr-en.yaml --pair fr-en --drafter org/drafter" in command
    assert "--task story --questions q.jsonl --output_dir out" in command


def test_language_comes_from_the_command_line_alone() -> None:
    """A drafter for the language of the shell's locale is not what anybody asked for."""
    shown = make("--dry-run", "drafter", "LANG=oci", "TEXT=file:text.txt", "MINUTES=5", "TO=folder").stdout
    command = " ".join(shown.replace("\\\n", " ").split())
    assert "language.yaml --pair oci --corpus file:text.txt --minutes 5 --to folder" in command
    refused = make("drafter", LANG="de_DE.UTF-8")
    assert refused.returncode != 0
    assert "name a language or a pair: make drafter LANG=oci" in refused.stdout


def test_locale_of_the_shell_is_no_pair() -> None:
    """Every shell sets LANG to its locale; without a pair on the command line German to English is measured."""
    assert "--pair de-en" in make("--dry-run", "bench", LANG="ru_RU.UTF-8").stdout


def test_pair_does_not_become_a_locale() -> None:
    """A pair exported as LANG is an unknown locale for every command that make starts."""
    shown = make("--eval", 'show:\n\t@echo "LANG=$$LANG, flags=$$MAKEFLAGS"', "show", "LANG=fr-en").stdout
    assert shown.startswith("LANG=,")
    assert "fr-en" not in shown


def test_unknown_pair_lists_the_known_ones() -> None:
    """A mistyped pair must not end in a traceback about a file."""
    done = make("bench", "LANG=fr-xx")
    assert done.returncode == 2
    assert "error: there is no recipes/configs/gemma-3-270m/fr-xx.yaml" in done.stdout
    assert "de-en fr-en ja-en ru-en zh-en" in done.stdout
