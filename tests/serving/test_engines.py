"""Starting an engine with a drafter, against servers that answer as the engines do."""

import json
import sys
from pathlib import Path

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.serving import engines
from drafter_trainer.serving.engines import llamacpp_command, serve, vllm_command, vllm_config

# Answers /health, the chat and the metrics as vLLM and llama.cpp do, for so many accepted tokens of a hundred drafted.
SERVER = """\
import http.server, json, sys
accepted, port = int(sys.argv[1]), int(sys.argv[sys.argv.index("--port") + 1])
if accepted == 999:
    sys.exit(3)
counts = [0, 0]

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        if self.path == "/metrics":
            lines = [f'vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {counts[0]:.1f}']
            lines.append(f'vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {counts[1]:.1f}')
            return self.answer("\\n".join(lines))
        self.answer("ok")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["temperature"] == 0.0 and asked["ignore_eos"] and asked["messages"][0]["role"] == "user"
        if accepted >= 0:
            counts[0] += 100
            counts[1] += accepted
        timings = {"draft_n": 100, "draft_n_accepted": accepted} if accepted >= 0 else {}
        self.answer(json.dumps({"timings": timings}))

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: Path, free_port: int):
    """Serve with an engine that accepts so many of a hundred drafted tokens; -1 drafts nothing, 999 ends at once."""
    script = tmp_path / "server.py"
    script.write_text(SERVER, encoding="utf-8")

    def serving(engine: str, accepted: int):
        def command(*_: object) -> list[str]:
            return [sys.executable, str(script), str(accepted)]

        monkeypatch.setattr(engines, "vllm_command", command)
        monkeypatch.setattr(engines, "llamacpp_command", command)
        return serve("target", str(published), engine, drafter_gguf="x.gguf", port=free_port)

    return serving


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_acceptance_is_counted_and_the_server_ends(start, engine: str) -> None:
    """Counted wrongly, a good drafter would be refused; left running, the server would hold its port."""
    with start(engine, 40) as running:
        found = running.check_acceptance(["one", "two", "three"])
        assert (found.drafted, found.accepted) == (300, 120)
        assert str(found) == "120 of 300 drafted tokens accepted"
    assert running.process.returncode is not None


@pytest.mark.parametrize(
    ("engine", "accepted", "said"),
    [
        ("vllm", 0, "misconfigured in vllm: 0 of 100 drafted tokens accepted"),
        ("llamacpp", 0, "misconfigured in llamacpp: 0 of 100 drafted tokens accepted"),
        ("vllm", -1, "nothing was drafted"),
        ("vllm", 999, "vllm ended with status 3"),
    ],
)
def test_drafter_in_vain_is_said_and_not_left_running(start, engine: str, accepted: int, said: str) -> None:
    """An engine with a drafter that is never accepted runs, slower than without, and nobody notices."""
    with pytest.raises(InputError, match=said), start(engine, accepted):
        pass


def test_arguments_that_cannot_work_start_nothing(published: Path) -> None:
    """Each of these would be found out after minutes of loading."""
    for arguments, said in (
        ({"engine": "ollama"}, "engine must be vllm or llamacpp"),
        ({"part": "table"}, "part whole or network"),
        ({"engine": "llamacpp"}, "export the drafter for llamacpp"),
        ({"python": "/no/such/python"}, "/no/such/python is not installed here"),
    ):
        with pytest.raises(InputError, match=said), serve("target", str(published), **arguments):
            pass


def test_commands_name_target_drafter_and_length() -> None:
    """An engine ignores, or refuses, an option of another name."""
    whole = vllm_command("python", "org/target", vllm_config("org/drafter", 8, "abc"))
    assert whole[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/target"]
    assert json.loads(whole[whole.index("--additional-config") + 1]) == {
        "drafter": "org/drafter",
        "drafter_revision": "abc",
    }
    network = vllm_config("org/drafter", 3, "abc", "network")
    assert network == {
        "speculative_config": {
            "method": "draft_model",
            "model": "org/drafter",
            "revision": "abc",
            "num_speculative_tokens": 3,
        }
    }
    assert llamacpp_command("t.gguf", "d.gguf", 4)[-6:] == [
        "--spec-type", "draft-simple", "--spec-draft-model", "d.gguf", "--spec-draft-n-max", "4"
    ]  # fmt: skip
