"""One client for every teacher that speaks the OpenAI chat protocol: recorded, openai, gemini, or a local server.

`recorded` is not a stub beside the real thing: the `openai` package builds a real request, and a transport inside this process
answers it from a file of replies (https://github.com/openai/openai-python, "Configuring the HTTP client"). No port is opened.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass

import httpx2
import openai

from workbook.dataset import read_jsonl, read_rows
from workbook.tasks import Task

LIVE = {
    "openai": {"base_url": None, "key": "OPENAI_API_KEY", "model": "gpt-4o-mini"},
    "gemini": {
        "base_url": "https://generativelanguage.googleapis.com/v1beta/openai/",
        "key": "GEMINI_API_KEY",
        "model": "gemini-2.5-flash",
    },
    "local": {"base_url": "WORKBOOK_TEACHER_URL", "key": "WORKBOOK_TEACHER_KEY", "model": "WORKBOOK_TEACHER_MODEL"},
}
HOW_TO_GO_LIVE = (
    "For a live teacher set teacher=openai with OPENAI_API_KEY, teacher=gemini with GEMINI_API_KEY, "
    "or teacher=local with WORKBOOK_TEACHER_URL and WORKBOOK_TEACHER_MODEL in the environment."
)


class TeacherError(RuntimeError):
    """The teacher cannot answer; the message says why and what to do."""


@dataclass(frozen=True)
class Reply:
    """One raw reply: its text, why it ended ('stop', 'length', ...), and the tokens it is charged for."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Teacher:
    """A named teacher: `ask` sends messages and a JSON schema, and returns the raw reply unjudged."""

    def __init__(self, name: str, model: str, client: openai.OpenAI):
        self.name, self.model, self.client = name, model, client

    def request(self, messages: list[dict], schema: type) -> dict:
        """Everything that decides the reply; `distill.py` keys its cache on it."""
        wanted = {"name": schema.__name__, "schema": strict_schema(schema), "strict": True}
        response_format = {"type": "json_schema", "json_schema": wanted}
        return {"model": self.model, "messages": messages, "response_format": response_format, "temperature": 0}

    def ask(self, request: dict) -> Reply:
        """Send one request. Raises TeacherError if the teacher cannot be reached, refuses the key or has no recording."""
        try:
            answer = self.client.chat.completions.create(**request)
        except openai.APIError as error:
            raise TeacherError(f"teacher {self.name}: {_reason(error)}") from None
        choice, usage = answer.choices[0], answer.usage
        text = choice.message.content or choice.message.refusal or ""
        return Reply(text, choice.finish_reason, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)


def _reason(error: openai.APIError) -> str:
    """What went wrong, without the request: a request can hold a key."""
    if isinstance(error, openai.AuthenticationError):
        return "the server does not accept the key; check the variable that holds it"
    if isinstance(error, openai.APIConnectionError):
        return "no connection to the server; check the network or the address"
    body = error.body if isinstance(error.body, dict) else {}
    return body.get("message") or type(error).__name__


def strict_schema(schema: type) -> dict:
    """The JSON schema of a Pydantic class without the string limits that strict structured output does not accept.

    See https://platform.openai.com/docs/guides/structured-outputs; the limits still hold when the reply is validated.
    """
    unsupported = {"minLength", "maxLength", "title"}

    def clean(part):
        if isinstance(part, dict):
            names = part.get("properties", {})
            kept = {key: clean(value) for key, value in part.items() if key not in unsupported}
            return kept | ({"properties": {name: clean(value) for name, value in names.items()}} if names else {})
        return [clean(item) for item in part] if isinstance(part, list) else part

    return clean(schema.model_json_schema())


def messages_for(task: Task, source: str, bad_reply: str = "", complaint: str = "") -> list[dict]:
    """The conversation that asks for a record of `source`; with a bad reply and the complaint, it asks once more."""
    messages = [{"role": "system", "content": task.system_prompt()}, {"role": "user", "content": source}]
    if complaint:
        again = f"That reply cannot be used: {complaint}. Reply again with one JSON object that fits the schema."
        messages += [{"role": "assistant", "content": bad_reply}, {"role": "user", "content": again}]
    return messages


def open_teacher(name: str, task: Task, environment: dict[str, str] = os.environ) -> Teacher:
    """The teacher called `name`: 'recorded', 'openai', 'gemini' or 'local'. Keys come from the environment only.

    Raises TeacherError naming the variable that is missing.
    """
    if name == "recorded":
        client = openai.OpenAI(api_key="recorded", base_url="http://recorded.invalid/v1", max_retries=0, http_client=_recorded(task))
        return Teacher("recorded", "recorded", client)
    if name not in LIVE:
        raise TeacherError(f"teacher: no teacher is called {name!r}; known: recorded, {', '.join(LIVE)}")
    preset = dict(LIVE[name])
    if name == "local":
        for field in ("base_url", "model"):
            preset[field] = _need(environment, preset[field], name)
        key = environment.get(preset["key"], "none")
    else:
        key = _need(environment, preset["key"], name)
    return Teacher(name, preset["model"], openai.OpenAI(api_key=key, base_url=preset["base_url"], timeout=60))


def _need(environment, variable: str, name: str) -> str:
    if not environment.get(variable):
        raise TeacherError(f"teacher {name}: set {variable} in the environment")
    return environment[variable]


def _recorded(task: Task) -> httpx2.Client:
    """An HTTP client that answers from the task's recordings: the user's first message finds them, its repeats count up."""
    texts = {row["id"]: _digest(task.render(row)) for row in read_rows(task)}
    replies = {}
    for row in read_jsonl(task.recordings) if task.recordings else []:
        if row["id"] in texts:
            replies[texts[row["id"]], row["attempt"]] = row

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        roles = Counter(message["role"] for message in body["messages"])
        source = next(message["content"] for message in body["messages"] if message["role"] == "user")
        row = replies.get((_digest(source), roles["assistant"] + 1))
        if row is None:
            message = f"there is no recorded reply for this text ({source[:40]!r}...). {HOW_TO_GO_LIVE}"
            return httpx2.Response(404, json={"error": {"message": message, "type": "not_recorded"}})
        message = {"role": "assistant", "content": row["reply"]}
        choice = {"index": 0, "message": message, "finish_reason": row["finish_reason"]}
        usage = row["usage"] | {"total_tokens": sum(row["usage"].values())}
        whole = {"id": row["id"], "object": "chat.completion", "created": 0, "model": "recorded", "choices": [choice], "usage": usage}
        return httpx2.Response(200, json=whole)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
