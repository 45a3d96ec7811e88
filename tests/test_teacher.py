"""The real openai package against recorded replies and against a server of ours on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from workbook import dataset
from workbook.tasks import ARTICLE_DIGEST
from workbook.teacher import TeacherError, messages_for, open_teacher, strict_schema

KEY = "sk-secret-of-a-test"


@pytest.fixture
def server():
    """An OpenAI-compatible server on loopback; `server.seen` holds its requests, `server.status` what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            httpd.seen.append({"path": self.path, "key": self.headers["Authorization"], "body": body})
            message = {"role": "assistant", "content": '{"ok": true}'}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
            if httpd.status != 200:
                answer = {"error": {"message": "no such model", "type": "invalid"}}
            data = json.dumps(answer).encode()
            self.send_response(httpd.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    httpd.seen, httpd.status = [], 200
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def local(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    environment = {"WORKBOOK_TEACHER_URL": url, "WORKBOOK_TEACHER_MODEL": "m", "WORKBOOK_TEACHER_KEY": KEY}
    return open_teacher("local", ARTICLE_DIGEST, environment)


def test_a_recorded_reply_comes_back_as_it_was_recorded():
    row = dataset.read_rows(ARTICLE_DIGEST)[0]
    recording = next(r for r in dataset.read_jsonl(ARTICLE_DIGEST.recordings) if r["id"] == row["id"] and r["attempt"] == 1)
    teacher = open_teacher("recorded", ARTICLE_DIGEST)
    reply = teacher.ask(teacher.request(messages_for(ARTICLE_DIGEST, row["text"]), ARTICLE_DIGEST.schema))
    assert reply.text == recording["reply"] and reply.completion_tokens == recording["usage"]["completion_tokens"] > 0


def test_an_article_without_a_recording_names_the_variables():
    teacher = open_teacher("recorded", ARTICLE_DIGEST)
    request = teacher.request(messages_for(ARTICLE_DIGEST, "خبر لم يُسجَّل له رد"), ARTICLE_DIGEST.schema)
    with pytest.raises(TeacherError, match=r"no recorded reply.*OPENAI_API_KEY.*GEMINI_API_KEY.*WORKBOOK_TEACHER_URL"):
        teacher.ask(request)


def test_a_local_server_gets_the_model_the_messages_and_a_strict_schema(server):
    teacher = local(server)
    reply = teacher.ask(teacher.request(messages_for(ARTICLE_DIGEST, "نص"), ARTICLE_DIGEST.schema))
    assert (reply.text, reply.prompt_tokens) == ('{"ok": true}', 7)
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions" and seen["key"] == f"Bearer {KEY}" and seen["body"]["model"] == "m"
    assert [message["role"] for message in seen["body"]["messages"]] == ["system", "user"]
    assert seen["body"]["response_format"]["json_schema"]["strict"] is True


def test_a_refused_key_and_a_server_error_are_said_without_the_key(server):
    teacher = local(server)
    request = teacher.request(messages_for(ARTICLE_DIGEST, "نص"), ARTICLE_DIGEST.schema)
    for status, says in [(401, "does not accept the key"), (404, "no such model")]:
        server.status = status
        with pytest.raises(TeacherError, match=says) as caught:
            teacher.ask(request)
        assert KEY not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("name, variable", [("openai", "OPENAI_API_KEY"), ("gemini", "GEMINI_API_KEY"), ("local", "WORKBOOK_TEACHER_URL")])
def test_a_missing_variable_is_named(name, variable):
    with pytest.raises(TeacherError, match=variable):
        open_teacher(name, ARTICLE_DIGEST, {})


def test_an_unknown_teacher_lists_the_known_ones():
    with pytest.raises(TeacherError, match="recorded, openai, gemini, local"):
        open_teacher("oracle", ARTICLE_DIGEST)


def test_strict_schema_keeps_fields_named_like_a_keyword():
    schema = strict_schema(ARTICLE_DIGEST.schema)
    assert "title" in schema["properties"] and "maxLength" not in json.dumps(schema)
    assert schema["required"] == list(ARTICLE_DIGEST.schema.model_fields) and schema["additionalProperties"] is False
