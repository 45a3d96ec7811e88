"""The real openai package against recorded replies and against a server of ours on loopback."""

import json
import time

import httpx2
import pytest
from server import KEY, completion

from workbook import dataset
from workbook.tasks import ARTICLE_DIGEST
from workbook.teacher import RowError, TeacherError, messages_for, open_teacher, strict_schema


def local(server):
    return open_teacher("local", ARTICLE_DIGEST, server.environment)


def request(teacher, text="نص"):
    return teacher.request(messages_for(ARTICLE_DIGEST, text), ARTICLE_DIGEST.schema)


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
    reply = teacher.ask(request(teacher))
    assert (reply.text, reply.prompt_tokens, reply.structured) == ('{"ok": true}', 7, "schema")
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions" and server.keys == {f"Bearer {KEY}"} and seen["body"]["model"] == "m"
    assert [message["role"] for message in seen["body"]["messages"]] == ["system", "user"]
    assert seen["body"]["response_format"]["json_schema"]["strict"] is True and seen["body"]["max_tokens"] > 0


def test_a_server_that_refuses_a_schema_gets_it_in_the_prompt_only_and_is_not_asked_again(server):
    server.before = lambda body: (400, {}, "response_format is not supported") if "response_format" in body else None
    teacher = local(server)
    replies = [teacher.ask(request(teacher, text)) for text in ("نص", "نص آخر")]
    assert [reply.structured for reply in replies] == ["prompt", "prompt"] and len(server.seen) == 3
    assert '"category"' in server.seen[-1]["body"]["messages"][0]["content"], "the schema is in the prompt"


def test_a_request_that_the_server_refuses_for_another_reason_is_one_rows_fault(server):
    server.before = lambda body: (400, {}, "this prompt is too long")
    teacher = local(server)
    with pytest.raises(RowError, match="too long"):
        teacher.ask(request(teacher))
    assert len(server.seen) == 1 and teacher.structured


def test_a_full_server_is_asked_again_when_it_says_so(server):
    server.before = lambda body: (429, {"retry-after": "1"}, "slow down") if len(server.seen) == 1 else None
    teacher, begun = local(server), time.monotonic()
    assert teacher.ask(request(teacher)).text == '{"ok": true}'
    assert len(server.seen) == 2 and server.seen[1]["time"] - server.seen[0]["time"] >= 1 and time.monotonic() - begun < 30


def test_a_server_that_fails_once_is_asked_again_after_a_pause(server):
    server.before = lambda body: (503, {}, "restarting") if len(server.seen) == 1 else None
    teacher = local(server)
    assert teacher.ask(request(teacher)).text == '{"ok": true}'
    assert server.seen[1]["time"] - server.seen[0]["time"] >= 0.3


def test_a_slow_server_ends_in_one_sentence(server):
    server.seconds = 1
    teacher = local(server)
    teacher.client |= {"timeout": 0.2, "max_retries": 0}
    with pytest.raises(TeacherError, match="took too long"):
        teacher.ask(request(teacher))


def test_a_refused_key_and_a_server_error_are_said_without_the_key(server):
    teacher = local(server)
    for status, says in [(401, "does not accept the key"), (403, "does not accept the key"), (404, "no such model")]:
        server.before = lambda body, status=status: (status, {}, "no such model")
        with pytest.raises(TeacherError, match=says) as caught:
            teacher.ask(request(teacher))
        assert KEY not in str(caught.value) and caught.value.__cause__ is None


def test_a_refused_key_in_geminis_wrapping_stops_the_run(server):
    teacher = local(server)
    wrapped = [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}]
    teacher.transport = httpx2.MockTransport(lambda request: httpx2.Response(400, json=wrapped))
    with pytest.raises(TeacherError, match="API key not valid") as caught:
        teacher.ask(request(teacher))
    assert not isinstance(caught.value, RowError)


def test_no_server_at_all_is_said():
    environment = {"WORKBOOK_TEACHER_URL": "http://127.0.0.1:9/v1", "WORKBOOK_TEACHER_MODEL": "m"}
    teacher = open_teacher("local", ARTICLE_DIGEST, environment)
    teacher.client |= {"max_retries": 0}
    with pytest.raises(TeacherError, match="no connection to the server"):
        teacher.ask(request(teacher))


@pytest.mark.parametrize("name, variable", [("openai", "OPENAI_API_KEY"), ("gemini", "GEMINI_API_KEY"), ("local", "WORKBOOK_TEACHER_URL")])
def test_a_missing_variable_is_named(name, variable):
    with pytest.raises(TeacherError, match=variable):
        open_teacher(name, ARTICLE_DIGEST, {})


@pytest.mark.parametrize(
    "name, variable, url, own",
    [
        ("openai", "OPENAI_API_KEY", "https://api.openai.com/v1/chat/completions", {"max_completion_tokens": 1024}),
        ("gemini", "GEMINI_API_KEY", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", {"max_tokens": 1024}),
    ],
)
def test_a_cloud_teacher_is_asked_at_its_address_with_its_key(name, variable, url, own):
    seen = []

    def answer(request):
        seen.append(request)
        return httpx2.Response(200, json=completion('{"ok": true}'))

    teacher = open_teacher(name, ARTICLE_DIGEST, {variable: KEY})
    teacher.transport = httpx2.MockTransport(answer)
    assert teacher.ask(request(teacher)).text == '{"ok": true}' and teacher.price.usd_out > teacher.price.usd_in > 0
    body = json.loads(seen[0].content)
    assert str(seen[0].url) == url and seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == teacher.model and body["temperature"] == 0 and body | own == body


def test_an_unknown_teacher_lists_the_known_ones():
    with pytest.raises(TeacherError, match="recorded, openai, gemini, local"):
        open_teacher("oracle", ARTICLE_DIGEST)


def test_strict_schema_keeps_fields_named_like_a_keyword():
    schema = strict_schema(ARTICLE_DIGEST.schema)
    assert "title" in schema["properties"] and "maxLength" not in json.dumps(schema)
    assert schema["required"] == list(ARTICLE_DIGEST.schema.model_fields) and schema["additionalProperties"] is False


def test_strict_schema_closes_the_objects_of_a_plain_model():
    from pydantic import BaseModel

    class Part(BaseModel):
        name: str = "none"

    class Whole(BaseModel):
        parts: list[Part]

    schema = strict_schema(Whole)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Part"] == {
        "properties": {"name": {"type": "string"}},
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
    }
