"""A server that responds like vLLM's or llama.cpp's, by hand-written rules.

    python stand_in.py ENGINE WHAT ... --port PORT

WHAT is the number of accepted tokens of each hundred drafted (-1 drafts nothing, 999 ends at once), "plain", or
"other", which accepts half of its drafts and whose second request differs from plain decoding at its third token.
"""

import http.server
import json
import sys
import threading

engine, what = sys.argv[1:3]
port = int(sys.argv[sys.argv.index("--port") + 1])
accepts = {"plain": -1, "other": 50}.get(what) if what in ("plain", "other") else int(what)
if accepts == 999:
    sys.exit(3)
lock = threading.Lock()
counts = {"requests": 0, "tokens": 0, "drafted": 0, "accepted": 0}


def count(tokens: int, drafted: int = 100) -> int:
    """Count a completion; return the number of requests so far, with the warm-up."""
    with lock:
        counts["requests"] += 1
        counts["tokens"] += tokens
        if accepts >= 0:
            counts["drafted"] += drafted
            counts["accepted"] += drafted * accepts // 100
        return counts["requests"]


def metrics() -> str:
    """Return the counts in the engine's format."""
    lines = [
        f"{engine}:spec_decode_num_draft_tokens_total {counts['drafted']}",
        f"{engine}:spec_decode_num_accepted_tokens_total {counts['accepted']}",
        f'{engine}:spec_decode_num_accepted_tokens_per_pos_total{{position="0"}} {counts["accepted"]}',
    ]
    if engine == "vllm":
        lines.append(f"vllm:time_to_first_token_seconds_count {counts['requests']}")
        passes = counts["tokens"] - counts["requests"] - counts["accepted"]
        lines.append(f"vllm:inter_token_latency_seconds_count {passes}")
    else:
        lines.append(f"llamacpp:tokens_predicted_total {counts['tokens']}")
    return "\n".join(lines)


class Handler(http.server.BaseHTTPRequestHandler):
    """Handles the health check, chats, completions and metrics."""

    def log_message(self, *words: object) -> None:
        """Log nothing."""

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        replies = {"/metrics": metrics(), "/version": '{"version": "0.32.0"}', "/props": '{"build_info": "b1"}'}
        self.reply(replies.get(self.path, "ok"))

    def do_POST(self) -> None:
        """Handle a chat, or complete a prompt with four tokens that depend on its length."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["temperature"] == 0.0
        if self.path == "/v1/chat/completions":
            assert asked["ignore_eos"]
            assert asked["messages"][0]["role"] == "user"
            count(100)
            return self.reply("{}")
        if "logprobs" in asked:
            tops = {"token_id:5": -0.25, "token_id:6": -0.5}
            return self.reply(json.dumps({"choices": [{"logprobs": {"top_logprobs": [tops]}}]}))
        ids = [5 + (len(asked["prompt"]) + place) % 20 for place in range(4)]
        if count(4, drafted=4) == 3 and what == "other":
            ids[2] = 30
        if engine == "llamacpp":
            return self.reply(json.dumps({"tokens": ids, "timings": {"predicted_ms": 0.01}}))
        events = [{"choices": [{"token_ids": [token]}]} for token in ids]
        self.reply("".join(f"data: {json.dumps(event)}\n\n" for event in events))


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
