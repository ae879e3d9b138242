"""Starting an engine with a drafter, and its benchmark, against servers that respond as the engines do."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from drafter_trainer.benchmark import page
from drafter_trainer.benchmark.report import report_tables, title
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import render_card
from drafter_trainer.pipeline import engine_benchmark
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.results import find_method, read_results
from drafter_trainer.serving import client, commands, engines
from drafter_trainer.serving.commands import llamacpp_command, vllm_command, vllm_config, vllm_ngram_config
from drafter_trainer.serving.engines import serve, start_engine
from tests.drafters.loop.conftest import describe

STAND_IN = str(Path(__file__).parent / "stand_in.py")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, published: Path, free_port: int):
    """Serve with an engine that accepts a number of each hundred drafted tokens; see `stand_in.py`."""

    def serving(engine: str, accepted: int):
        def command(*_: object) -> list[str]:
            return [sys.executable, STAND_IN, engine, str(accepted)]

        monkeypatch.setattr(engines, "vllm_command", command)
        monkeypatch.setattr(engines, "llamacpp_command", command)
        return serve("target", str(published), engine, drafter_gguf="x.gguf", port=free_port)

    return serving


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_acceptance_is_counted_and_the_server_ends(start, engine: str) -> None:
    """With wrong counts a good drafter would be rejected; a server that is left running keeps its port."""
    with start(engine, 40) as running:
        found = running.check_acceptance(["one", "two", "three"])
        assert (found.drafted, found.accepted) == (300, 120)
        assert str(found) == "120 of 300 drafted tokens accepted"
    assert running.process.returncode is not None


@pytest.mark.parametrize(
    ("engine", "accepted", "message"),
    [
        ("vllm", 0, "misconfigured in vllm: 0 of 100 drafted tokens accepted"),
        ("llamacpp", 0, "misconfigured in llamacpp: 0 of 100 drafted tokens accepted"),
        ("vllm", -1, "nothing was drafted"),
        ("vllm", 999, "vllm ended with status 3"),
    ],
)
def test_rejected_drafter_is_not_left_running(start, engine: str, accepted: int, message: str) -> None:
    """An engine with a drafter that is never accepted runs, slower than without, and nobody notices."""
    with pytest.raises(InputError, match=message), start(engine, accepted):
        pass


def test_port_of_another_server_is_rejected(free_port: int) -> None:
    """The other server would seem ready, and its counts those of this drafter."""
    with socket.create_server(("127.0.0.1", free_port)):
        command = [sys.executable, "-c", "pass"]
        with pytest.raises(InputError, match="is used by another"), start_engine("vllm", "t", command, free_port):
            pass


def test_no_process_of_a_server_is_left(tmp_path: Path, free_port: int) -> None:
    """vLLM's engine is a process of its own: it stayed after its server had died, with all its memory."""
    worker = "import time; time.sleep(600)"
    code = f"import subprocess, sys, pathlib; worker = subprocess.Popen([sys.executable, '-c', {worker!r}]); "
    code += f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(worker.pid)); sys.exit(3)"
    command = [sys.executable, "-c", code]
    with pytest.raises(InputError, match="ended with status 3"), start_engine("vllm", "target", command, free_port):
        pass
    left = int((tmp_path / "pid").read_text(encoding="ascii"))
    psutil.wait_procs([each for each in psutil.process_iter() if each.pid == left], timeout=10)
    assert not psutil.pid_exists(left)


def test_server_ends_with_the_process_that_started_it(free_port: int) -> None:
    """A benchmark that was ended by a signal left a server with its port and all its memory."""
    code = (
        "import os, signal, sys, time; from drafter_trainer.serving.engines import start_engine\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "for _ in range(3):\n"
        "    if child := os.fork():\n"  # which has imported all that takes seconds
        "        os.waitpid(child, 0)\n"
        "        continue\n"
        f"    with start_engine('vllm', 't', [sys.executable, {STAND_IN!r}, 'vllm', '40'], {free_port}) as running:\n"
        "        print(os.getpid(), running.process.pid, flush=True)\n"
        "        time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            process, server = map(psutil.Process, map(int, starter.stdout.readline().split()))
            assert server.is_running()
            process.send_signal(number)
            _, alive = psutil.wait_procs([server], timeout=30)
            # Some containers' init reaps none.
            assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], number


def test_arguments_that_cannot_work_start_nothing(published: Path) -> None:
    """Otherwise each of these would be found after minutes of loading."""
    for arguments, message in (
        ({"engine": "ollama"}, "engine must be vllm or llamacpp"),
        ({"part": "table"}, "part whole or network"),
        ({"engine": "llamacpp"}, "for llamacpp, and give the export's folder"),
        ({"python": "/no/such/python"}, "/no/such/python is not installed here"),
    ):
        with pytest.raises(InputError, match=message), serve("target", str(published), **arguments):
            pass


def test_commands_name_target_drafter_and_length() -> None:
    """An engine ignores or rejects an option of another name."""
    whole = vllm_command("python", "org/target", vllm_config("org/drafter", 8, "abc"))
    assert whole[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/target"]
    own = json.loads(whole[whole.index("--additional-config") + 1])
    assert own == {"drafter": "org/drafter", "drafter_revision": "abc"}
    network = {"method": "draft_model", "model": "org/drafter", "revision": "abc", "num_speculative_tokens": 3}
    assert vllm_config("org/drafter", 3, "abc", "network") == {"speculative_config": network}
    mixed = vllm_command("python", "org/target", vllm_config("org/drafter", 3, part="network", mixed=True))
    assert mixed[-1] == "--disable-hybrid-kv-cache-manager"
    ngrams = vllm_ngram_config(5)["speculative_config"]
    assert (ngrams["method"], ngrams["num_speculative_tokens"]) == ("ngram", 5)
    drafter = ["--spec-draft-model", "d.gguf", "--spec-draft-n-max", "4"]
    lookup = ["--spec-ngram-simple-size-n", "2", "--spec-ngram-simple-size-m", "8"]
    assert llamacpp_command("t.gguf") == ["llama-server", "--model", "t.gguf"]
    assert llamacpp_command("t.gguf", "d.gguf", 4)[3:] == [*drafter, "--spec-type", "draft-simple"]
    assert llamacpp_command("t.gguf", ngram_length=8)[3:] == [*lookup, "--spec-type", "ngram-simple"]
    both = llamacpp_command("t.gguf", "d.gguf", 4, ngram_length=8)
    assert both[3:] == [*lookup, *drafter, "--spec-type", "ngram-simple,draft-simple"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that were to be started; nothing is started."""
    started = []

    def start(words: list[str], **_: object) -> None:
        started.append(words)
        raise FileNotFoundError

    monkeypatch.setattr("drafter_trainer.serving.engines.subprocess.Popen", start)
    return started


def test_base_model_is_served_with_its_template(started, published, tmp_path) -> None:
    """A base model has no chat template: without one the server rejects the chat of the acceptance check."""
    drafter = Path(shutil.copytree(published, tmp_path / "drafter"))
    (drafter / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    describe(drafter, prompting={"chat_template": "chat_template.jinja", "stop": ["\n"]})
    (drafter / "drafter.gguf").touch()
    for engine in ("vllm", "llamacpp"):
        with pytest.raises(InputError), serve("org/target@v2", str(drafter), engine):
            pass
    template = str(drafter / "chat_template.jinja")
    in_vllm, in_llamacpp = started
    assert in_vllm[in_vllm.index("--chat-template") + 1] == template
    assert "org/target" in in_vllm
    assert in_vllm[in_vllm.index("--revision") + 1] == "v2"
    assert template not in in_llamacpp  # which would not start


def test_server_of_the_wheel_takes_the_place_of_llama_server(started: list[list[str]]) -> None:
    """With `xllamacpp` there is no `llama-server`; its server must get the same words."""
    for python in (None, "/env/python"):
        with pytest.raises(InputError), start_engine("llamacpp", "t.gguf", llamacpp_command("t.gguf"), 81, python):
            pass
    rest = ["--model", "t.gguf", "--metrics", "--host", "127.0.0.1", "--port", "81"]
    server = ["/env/python", "-m", "drafter_trainer.serving.llamacpp_server"]
    assert started == [["llama-server", *rest], [*server, *rest]]


QUESTIONS = [{"prompt": "Hallo " * number, "reference": "Hello"} for number in range(1, 6)]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started, by the method of drafting."""
    started: list[str] = []

    def command(python: str, target: str, config: dict) -> list[str]:
        return [sys.executable, STAND_IN, "vllm", "other" if config else "plain", json.dumps(config)]

    start = engine_benchmark.start_engine

    def noted(engine: str, target: str, command: tuple[str, ...], *more: object):
        started.append(json.loads(command[4]).get("speculative_config", {}).get("method", "plain"))
        return start(engine, target, command, *more)

    monkeypatch.setattr(commands, "vllm_command", command)
    monkeypatch.setattr(engine_benchmark, "start_engine", noted)
    monkeypatch.setattr(page, "_draw", lambda run: {})
    monkeypatch.setattr(client, "_COUNTER_DELAY", 0.0)
    return started


def test_figures_of_an_engine_are_its_own(begun, published, target_folder, tmp_path) -> None:
    """Tokens per pass, acceptance and equality that are not the servers' would be published as theirs."""
    given = {"engine": "vllm", "output_dir": tmp_path, "requests_at_once": [1, 3], "max_new_tokens": 4}
    results = benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert begun == ["plain", "ngram", "draft_model", "custom_class"]
    assert read_results(tmp_path / "results.json") == results
    assert [run["engine"]["requests_at_once"] for run in results["runs"]] == [1, 3]
    for run in results["runs"]:
        assert [method["name"] for method in run["methods"]] == [
            "plain", "prompt lookup", "drafter, network alone", "drafter"
        ]  # fmt: skip
        plain, drafter = (find_method(run, name) for name in ("plain", "drafter"))
        # Five completions of four tokens; of four drafted tokens in each, two are accepted.
        assert (plain["tokens"], plain["target_passes"], plain["mean_accepted_tokens"]) == (20, 20, 1.0)
        assert (drafter["target_passes"], drafter["mean_accepted_tokens"]) == (10, 2.0)
        assert drafter["acceptance_rate"] == 0.5
        assert drafter["acceptance_by_position"] == [1.0]
        assert plain["acceptance_rate"] is None
        assert plain["tokens_per_second"] == pytest.approx(20 / plain["seconds"])
        assert plain["losslessness"]["equal"] == 5
    first = find_method(results["runs"][0], "drafter")["losslessness"]
    assert (first["equal"], first["divergences"][0]["position"]) == (4, 2)
    assert first["divergences"][0]["margin"] == 0.25
    tables = report_tables(results)
    assert "3 requests at once in vllm 0.32.0" in tables
    assert "4/5" in tables
    assert "batch 1" not in title(results, results["runs"][0])
    assert (tmp_path / "report.html").is_file()
    card = render_card(DrafterDescription.read(published), {"engines/vllm/results.json": results}, "me/x", None)
    assert "| German to English | translation | greedy, 3 requests at once in vllm 0.32.0 |" in card
    assert "batch size 1: nothing follows" not in card.lower()
    # Done before, it is not done again.
    assert benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given) == results
    assert len(begun) == 4


def test_interrupted_benchmark_goes_on_with_the_next_server(
    begun: list[str], published: Path, target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server takes minutes to start: what was measured is not measured again."""
    given = {"engine": "vllm", "output_dir": tmp_path, "requests_at_once": [2], "max_new_tokens": 4}
    measure = engine_benchmark.measure_server

    def broken(server, name, *more):
        if name != "plain":
            raise KeyboardInterrupt
        return measure(server, name, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(engine_benchmark, "measure_server", broken)
        benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert begun == ["plain", "ngram"]
    benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert begun[2:] == ["ngram", "draft_model", "custom_class"]


def test_llamacpp_is_started_with_what_each_method_drafts() -> None:
    """A wrong command would be measured under the name of another method."""
    lengths = {"whole": 8, "network": 3}
    methods = commands.engine_methods("llamacpp", "t.gguf", "drafter", "stock", lengths, [5, 9], drafter_gguf="d.gguf")
    expected = {
        "plain": (0, {}),
        "prompt lookup, 5": (5, {"ngram_length": 5}),
        "prompt lookup, 9": (9, {"ngram_length": 9}),
        "drafter, network alone": (3, {"drafter_gguf": "d.gguf", "draft_length": 3}),
        "drafter": (8, {"drafter_gguf": "d.gguf", "draft_length": 3, "ngram_length": 8}),
    }
    assert {each.name: (each.draft_length, [*each.command]) for each in methods} == {
        name: (length, llamacpp_command("t.gguf", **given)) for name, (length, given) in expected.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "ollama"}, "engine must be vllm or llamacpp, got ollama"),
        ({"requests_at_once": [0]}, r"numbers from 1 on, got \[0\]"),
        ({"engine": "llamacpp"}, "name the target's file as target_gguf"),
        ({"max_new_tokens": 100_000}, "the longest question and its completion take"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_server_starts(
    begun: list[str], published: Path, target_folder: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    """Found out later it costs the minutes in which the servers start."""
    given = {"engine": "vllm", "output_dir": tmp_path, "max_new_tokens": 4} | changes
    with pytest.raises(InputError, match=message):
        benchmark_engine(published, str(target_folder), QUESTIONS, languages="de-en", **given)
    assert begun == []
