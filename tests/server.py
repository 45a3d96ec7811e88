"""A server of ours on loopback that speaks the OpenAI protocol: chat completions, files and batches. Tests tell it how to behave."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-of-a-test"


def completion(text, finish="stop", tokens=(7, 3)):
    """A chat completion as the protocol has it."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    """seen: the chat requests it got. answer: body -> reply text. before: body -> an error to give instead, as (status, headers,
    message), or None. seconds: how long a reply takes. most_at_once: how many requests it had in hand together. files, batches:
    those of the batch queue."""

    daemon_threads = True

    def __init__(self):
        self.seen, self.seconds, self.most_at_once, self.at_once = [], 0.0, 0, 0
        self.answer, self.before = lambda body: '{"ok": true}', lambda body: None
        self.files, self.batches, self.keys, self.guard = {}, {}, set(), threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def environment(self):
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return {"WORKBOOK_TEACHER_URL": url, "WORKBOOK_TEACHER_MODEL": "m", "WORKBOOK_TEACHER_KEY": KEY}

    def run_batches(self):
        """Answer every batch that is waiting, as the provider does overnight."""
        for batch in self.batches.values():
            if batch["status"] != "in_progress":
                continue
            lines = []
            for line in self.files[batch["input_file_id"]].splitlines():
                row = json.loads(line)
                response = {"status_code": 200, "body": completion(self.answer(row["body"]), tokens=(100, 10))}
                lines.append(json.dumps({"custom_id": row["custom_id"], "response": response, "error": None}))
            name = f"file-{len(self.files)}"
            self.files[name] = "\n".join(lines)
            batch.update(status="completed", output_file_id=name)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.add(self.headers["Authorization"])
        if self.path == "/v1/files":
            name, text = f"file-{len(self.server.files)}", content.split(b"\r\n\r\n")
            self.server.files[name] = next(part for part in text if b"custom_id" in part).rsplit(b"\r\n--", 1)[0].decode()
            return self._send(200, {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"})
        body = json.loads(content)
        if self.path == "/v1/batches":
            name = f"batch-{len(self.server.batches)}"
            about = {"id": name, "object": "batch", "endpoint": body["endpoint"], "completion_window": "24h", "created_at": 0}
            self.server.batches[name] = about | {"input_file_id": body["input_file_id"], "status": "in_progress", "output_file_id": None}
            return self._send(200, self.server.batches[name])
        return self._chat(body)

    def do_GET(self):
        parts = self.path.split("/")
        if parts[2] == "batches":
            return self._send(200, self.server.batches[parts[3]])
        return self._send(200, self.server.files[parts[3]], plain=True)

    def _chat(self, body):
        server = self.server
        with server.guard:
            server.seen.append({"path": self.path, "body": body, "time": time.monotonic()})
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.seconds)
            if refusal := server.before(body):
                status, headers, message = refusal
                return self._send(status, {"error": {"message": message, "type": "test"}}, headers)
            answer = server.answer(body)
            return self._send(200, completion(answer) if isinstance(answer, str) else answer)
        finally:
            with server.guard:
                server.at_once -= 1

    def _send(self, status, content, headers=(), plain=False):
        data = (content if plain else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
