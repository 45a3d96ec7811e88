"""One client for every teacher that speaks the OpenAI chat protocol: recorded, openai, gemini, or a local server.

`recorded` is not a stub beside the real thing: the `openai` package builds a real request, and a transport inside this process
answers it from a file of replies (https://github.com/openai/openai-python, "Configuring the HTTP client"). No port is opened.
"""

import json
import os
import re
import time
from collections import Counter
from dataclasses import replace

import httpx2
import openai
from anyio.from_thread import start_blocking_portal

from workbook.cache import Reply, digest
from workbook.costs import Price, most_tokens, price_of
from workbook.dataset import read_jsonl, read_rows
from workbook.tasks import Task

LONGEST = 1024  # tokens of one reply; it is part of what a request may cost
RETRIES = 6  # with a growing pause and chance in it, or as long as the server's retry-after says; the openai package does that
LIVE = {
    "openai": {
        "base_url": None,
        "key": "OPENAI_API_KEY",
        "model": "gpt-4o-mini",
        "decoding": {"temperature": 0, "max_completion_tokens": LONGEST},
    },
    "gemini": {
        "base_url": "https://generativelanguage.googleapis.com/v1beta/openai/",
        "key": "GEMINI_API_KEY",
        "model": "gemini-2.5-flash",
        "decoding": {"temperature": 0, "max_tokens": LONGEST, "reasoning_effort": "none"},
    },
    "local": {
        "base_url": "WORKBOOK_TEACHER_URL",
        "key": "WORKBOOK_TEACHER_KEY",
        "model": "WORKBOOK_TEACHER_MODEL",
        "decoding": {"temperature": 0, "max_tokens": LONGEST},
    },
}
PROVIDER = {"openai": "openai", "gemini": "google", "recorded": "openai"}
HOW_TO_GO_LIVE = (
    "For a live teacher set teacher=openai with OPENAI_API_KEY, teacher=gemini with GEMINI_API_KEY, "
    "or teacher=local with WORKBOOK_TEACHER_URL and WORKBOOK_TEACHER_MODEL in the environment."
)
NO_COMPLETION = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what reading some other page as a reply raises
_ABOUT_KEY = re.compile("api[ _-]?key", re.IGNORECASE)
_ABOUT_FORMAT = re.compile("response_format|json_schema|schema|structured|guided|grammar", re.IGNORECASE)


class TeacherError(RuntimeError):
    """The teacher cannot answer; the message says why and what to do."""


class RowError(TeacherError):
    """The teacher refuses this one request; others may pass."""


class Teacher:
    """A named teacher: `ask` sends messages and a JSON schema, and returns the raw reply unjudged.

    price: what it charges; a recorded teacher is priced as gpt-4o-mini, so that the sums mean something.
    structured: False once the server has refused a response_format; from then on the schema is only in the prompt.
    """

    def __init__(self, name: str, model: str, price: Price, decoding: dict, client: dict, transport=None):
        self.name, self.model, self.price, self.decoding, self.client = name, model, price, decoding, client
        self.transport, self.structured = transport, True

    def request(self, messages: list[dict], schema: type) -> dict:
        """Everything that decides the reply; `cache.py` keys on it."""
        wanted = {"name": schema.__name__, "schema": strict_schema(schema), "strict": True}
        response_format = {"type": "json_schema", "json_schema": wanted}
        return {"model": self.model, "messages": messages, "response_format": response_format} | self.decoding

    def connect(self) -> openai.AsyncOpenAI:
        """A client for one event loop; close it after use."""
        http = {"http_client": httpx2.AsyncClient(transport=self.transport)} if self.transport else {}
        return openai.AsyncOpenAI(**self.client, **http)

    async def send(self, client: openai.AsyncOpenAI, request: dict) -> Reply:
        """Send one request. Raises RowError for a request that the server does not take, else TeacherError."""
        begun = time.perf_counter()
        bare = {name: value for name, value in request.items() if name != "response_format"}
        structured = self.structured
        try:
            try:
                answer = await client.chat.completions.create(**(request if structured else bare))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not (structured and _ABOUT_FORMAT.search(reason(error))):
                    raise
                answer = await client.chat.completions.create(**bare)
                self.structured = structured = False
            reply = read_reply(answer.model_dump(), time.perf_counter() - begun, "schema" if structured else "prompt")
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            kind = TeacherError if _ABOUT_KEY.search(reason(error)) else RowError
            raise kind(f"teacher {self.name}: {reason(error)}") from None
        except openai.APIError as error:
            raise TeacherError(f"teacher {self.name}: {reason(error)}") from None
        except NO_COMPLETION as error:
            raise TeacherError(
                f"teacher {self.name}: the reply is no chat completion ({type(error).__name__}); check the address"
            ) from None
        if not reply.prompt_tokens:  # the server does not count: take the most it can be
            reply = replace(reply, **dict(zip(("prompt_tokens", "completion_tokens"), most_tokens(request), strict=True)))
        return reply

    def ask(self, request: dict) -> Reply:
        """`send` for one request, from code that is not asynchronous; also inside a notebook, whose own loop is running."""

        async def once():
            async with self.connect() as client:
                return await self.send(client, request)

        with start_blocking_portal() as portal:
            return portal.call(once)


def read_reply(answer: dict, seconds: float, structured: str) -> Reply:
    """A `Reply` from a chat completion as the protocol has it, alone or inside a batch."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    text = choice["message"].get("content") or choice["message"].get("refusal") or ""
    text = text.encode("utf-8", "replace").decode()  # half of an emoji cannot be written to a file
    tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return Reply(text, choice["finish_reason"], *tokens, round(seconds, 3), structured)


def reason(error: openai.APIError) -> str:
    """What went wrong, without the request: a request can hold a key."""
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return "the server does not accept the key; check the variable that holds it"
    if isinstance(error, openai.APITimeoutError):
        return "the server took too long; try again later, or lower concurrency"
    if isinstance(error, openai.APIConnectionError):
        return "no connection to the server; check the network or the address"
    body = error.body[0] if isinstance(error.body, list) and error.body else error.body  # Gemini wraps it in a list
    body = body.get("error", body) if isinstance(body, dict) else {}
    body = body if isinstance(body, dict) else {"message": body}
    message = body.get("message") or body.get("detail") or type(error).__name__
    if isinstance(error, openai.RateLimitError):
        return f"the server's limit is reached ({message}); lower requests_per_minute, or wait and run again: nothing is asked twice"
    return str(message)


def strict_schema(schema: type) -> dict:
    """The JSON schema of a Pydantic class as strict structured output wants it: closed objects, every field required, no string limits.

    See https://platform.openai.com/docs/guides/structured-outputs; the limits still hold when the reply is validated.
    """
    unsupported = {"minLength", "maxLength", "title", "default"}

    def clean(part):
        if isinstance(part, list):
            return [clean(item) for item in part]
        if not isinstance(part, dict):
            return part
        names = part.get("properties", {})
        kept = {key: clean(value) for key, value in part.items() if key not in unsupported}
        if part.get("type") == "object" and names:
            kept |= {"properties": {name: clean(value) for name, value in names.items()}}
            kept |= {"required": list(names), "additionalProperties": False}
        return kept

    return clean(schema.model_json_schema())


def messages_for(task: Task, source: str, bad_reply: str = "", complaint: str = "") -> list[dict]:
    """The conversation that asks for a record of `source`; with a bad reply and the complaint, it asks once more."""
    messages = [{"role": "system", "content": task.system_prompt()}, {"role": "user", "content": source}]
    if complaint:
        again = f"That reply cannot be used: {complaint}. Reply again with one JSON object that fits the schema."
        messages += [{"role": "assistant", "content": bad_reply}, {"role": "user", "content": again}]
    return messages


def open_teacher(name: str, task: Task, environment: dict[str, str] = os.environ, price: Price | None = None) -> Teacher:
    """The teacher called `name`: 'recorded', 'openai', 'gemini' or 'local'. Keys come from the environment only.

    price: instead of the list price; a local teacher costs nothing unless it says otherwise.
    Raises TeacherError naming the variable that is missing.
    """
    if name == "recorded":
        price = price or price_of("gpt-4o-mini", "openai")
        client = {"api_key": "recorded", "base_url": "http://recorded.invalid/v1", "max_retries": 0}
        return Teacher(name, "recorded", price, {"temperature": 0, "max_tokens": LONGEST}, client, _recorded(task))
    if name not in LIVE:
        raise TeacherError(f"teacher: no teacher is called {name!r}; known: recorded, {', '.join(LIVE)}")
    preset = dict(LIVE[name])
    if name == "local":
        for part in ("base_url", "model"):
            preset[part] = _need(environment, preset[part], name)
        key = environment.get(preset["key"], "none")
        price = price or Price(0, 0)
    else:
        key = _need(environment, preset["key"], name)
        price = price or price_of(preset["model"], PROVIDER[name])
    client = {"api_key": key, "base_url": preset["base_url"], "timeout": 60, "max_retries": RETRIES}
    return Teacher(name, preset["model"], price, preset["decoding"], client)


def _need(environment, variable: str, name: str) -> str:
    if not environment.get(variable):
        raise TeacherError(f"teacher {name}: set {variable} in the environment")
    return environment[variable]


def _recorded(task: Task) -> httpx2.MockTransport:
    """A transport that answers from the task's recordings: the user's first message finds them, its repeats count up."""
    texts = {row["id"]: digest(task.render(row)) for row in read_rows(task)}
    replies = {}
    for row in read_jsonl(task.recordings) if task.recordings else []:
        if row["id"] in texts:
            replies[texts[row["id"]], row["attempt"]] = row

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        roles = Counter(message["role"] for message in body["messages"])
        source = next(message["content"] for message in body["messages"] if message["role"] == "user")
        row = replies.get((digest(source), roles["assistant"] + 1))
        if row is None:
            message = f"there is no recorded reply for this text ({source[:40]!r}...). {HOW_TO_GO_LIVE}"
            return httpx2.Response(404, json={"error": {"message": message, "type": "not_recorded"}})
        message = {"role": "assistant", "content": row["reply"]}
        choice = {"index": 0, "message": message, "finish_reason": row["finish_reason"]}
        usage = row["usage"] | {"total_tokens": sum(row["usage"].values())}
        whole = {"id": row["id"], "object": "chat.completion", "created": 0, "model": "recorded", "choices": [choice], "usage": usage}
        return httpx2.Response(200, json=whole)

    return httpx2.MockTransport(answer)
