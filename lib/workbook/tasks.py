"""A task: the schema of the record we want, the words that ask for it, and the files that hold its examples.

A schema is a Pydantic class. It does three jobs here: it tells the teacher what to produce, it refuses replies that do not
fit, and it becomes the columns of a database table (`records.py`).
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbook import text

DATA = Path(__file__).parents[2] / "data"

Category = Literal["politics", "economy", "sports", "health", "science", "technology", "culture", "environment"]
EntityType = Literal["person", "organization", "location", "date", "number"]
Severity = Literal["mild", "moderate", "severe", "unknown"]
Urgency = Literal["emergency", "urgent", "routine", "self_care"]
NonEmpty = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    """A record with no fields beyond its schema; OpenAI's strict mode asks for the same."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Entity(Record):
    name: NonEmpty
    type: EntityType


class ArticleDigest(Record):
    """An Arabic news article as one structured record, with the summary also in English."""

    title: Annotated[str, Field(min_length=1, max_length=120, description="a headline in Arabic")]
    category: Category
    keywords: Annotated[list[NonEmpty], Field(min_length=3, max_length=5, description="copied from the article")]
    entities: Annotated[list[Entity], Field(max_length=6, description="names copied from the article")]
    summary: Annotated[str, Field(min_length=1, description="one or two sentences in Arabic")]
    translation: Annotated[str, Field(min_length=1, description="the summary in English")]


class Symptom(Record):
    name: Annotated[str, Field(min_length=1, description="in English")]
    duration_days: Annotated[int, Field(ge=0)] | None
    severity: Severity


class PatientIntake(Record):
    """A conversation between a patient and a chatbot as one structured record in English."""

    chief_complaint: NonEmpty
    symptoms: list[Symptom]
    medications: list[NonEmpty]
    allergies: list[NonEmpty]
    urgency: Urgency
    follow_up: NonEmpty


@dataclass(frozen=True)
class Task:
    """What to extract (`schema`), how to ask for it, and where its rows are.

    schema       the Pydantic class of one record
    instruction  the few words the student is trained with; the same bytes in training, evaluation and serving
    guidance     the full instructions for the teacher and for untuned models; the JSON schema is added to them
    data         JSONL file of rows, each with an "id"; rows that tell the same event share a "source"
    raw          the rows as they arrived, before `cleaning.py`; notebook 03 starts there, or from `data` where there is none
    recordings   JSONL file of recorded teacher replies (see `teacher.py`)
    gold         JSONL file of {"id", "record"}: reference labels made independently of the teacher; its rows are the test split
    render       row -> the text that a model reads
    grounded     record -> the strings that must stand in the source text
    languages    field -> 'ar' or 'en': the language that field must be in
    numbers_in   fields whose numbers must all stand in the source text
    source_language  'ar' or 'en' if all sources are in one language: others are dropped as off_language
    prose        True for running text: one that does not end like a sentence was cut off, and one much like another is its copy
    """

    name: str
    schema: type[BaseModel]
    instruction: str
    guidance: str
    data: Path
    raw: Path | None = None
    recordings: Path | None = None
    gold: Path | None = None
    render: Callable[[dict], str] = lambda row: row["text"]
    grounded: Callable[[BaseModel], list[str]] = lambda record: []
    languages: dict[str, str] = field(default_factory=dict)
    numbers_in: tuple[str, ...] = ()
    source_language: str = ""
    prose: bool = False

    def system_prompt(self) -> str:
        """The teacher's system message: the guidance, then the schema as compact JSON."""
        schema = json.dumps(self.schema.model_json_schema(), ensure_ascii=False, separators=(",", ":"))
        return f"{self.guidance}\n\nJSON schema:\n{schema}"

    def ungrounded(self, record: BaseModel, source: str) -> list[str]:
        """Strings of `record` that should stand in `source` and do not."""
        return [part for part in self.grounded(record) if not text.contains(source, part)]

    def invented_numbers(self, record: BaseModel, source: str) -> list[str]:
        """Numbers (in digits) of the fields in `numbers_in` that `source` does not have."""
        known = text.numbers(source)
        return sorted({n for name in self.numbers_in for n in text.numbers(getattr(record, name))} - known)

    def wrong_language(self, record: BaseModel) -> list[str]:
        """Names of the fields that are not in the language they should be in."""
        return [name for name, wanted in self.languages.items() if text.language(getattr(record, name)) != wanted]


def conversation(row: dict) -> str:
    """A chat row as lines 'Patient: ...' and 'Chatbot: ...'."""
    return "\n".join(f"{who.capitalize()}: {said}" for turn in row["turns"] for who, said in turn.items())


ARTICLE_DIGEST = Task(
    name="article_digest",
    schema=ArticleDigest,
    instruction="Digest this Arabic news article as JSON with an English translation.",
    guidance="""You turn an Arabic news article into one JSON object. Reply with the JSON object alone: no text around it.
- title: a headline in Arabic, at most 120 characters, not copied from the first sentence.
- category: the one that the event itself belongs to, not the setting.
- keywords: 3 to 5 words or short phrases, in Arabic, exactly as they stand in the article.
- entities: 3 to 5, the most important ones, the name exactly as it stands in the article; type is person, organization, \
location, date or number (a number with its unit).
- summary: one or two sentences in Arabic, shorter than a third of the article; nothing that the article does not say.
- translation: that summary in English, complete, in plain news English.
Keep every number in digits if the article has it in digits, and in words if it has it in words.""",
    data=DATA / "articles.jsonl",
    raw=DATA / "articles_raw.jsonl",
    recordings=DATA / "teacher" / "article_digest.jsonl",
    gold=DATA / "gold" / "article_digest.jsonl",
    grounded=lambda record: [*record.keywords, *(entity.name for entity in record.entities)],
    languages={"title": "ar", "summary": "ar", "translation": "en"},
    numbers_in=("title", "summary", "translation"),
    source_language="ar",
    prose=True,
)

PATIENT_INTAKE = Task(
    name="patient_intake",
    schema=PatientIntake,
    instruction="Turn this patient conversation into an intake record as JSON in English.",
    guidance="""You turn a conversation between a patient (Egyptian Arabic) and a chatbot into one JSON object in English. \
Reply with the JSON object alone: no text around it.
- chief_complaint: why the patient writes, in one short English phrase.
- symptoms: each symptom the patient has now; duration_days is a whole number of days, or null if it was not said; \
if the patient corrects something, the correction counts; severity is what the patient's words support, else unknown.
- medications: what the patient takes now, generic name in English if it is clear, else as said; with the dose if it was said.
- allergies: what the patient says they are allergic to; an empty list if none.
- urgency: emergency (call an ambulance now), urgent (see a doctor today), routine (an appointment), self_care (home care).
- follow_up: the next step as the conversation leaves it, one English sentence.
Do not diagnose and do not add what was not said.""",
    data=DATA / "patient_chats.jsonl",
    recordings=DATA / "teacher" / "patient_intake.jsonl",
    gold=DATA / "gold" / "patient_intake.jsonl",
    render=conversation,
    languages={"chief_complaint": "en", "follow_up": "en"},
    source_language="ar",
)

TASKS = {task.name: task for task in (ARTICLE_DIGEST, PATIENT_INTAKE)}


def load_task(name: str, data: str = "") -> Task:
    """The task called `name`, or a user's own as 'package.module:ATTRIBUTE'; `data` is a JSONL file to use instead of the task's.

    Raises ValueError that names the known tasks, or says what is wrong with the address or the file.
    """
    task = _find(name)
    if not data:
        return task
    if not Path(data).is_file():
        raise ValueError(f"data: there is no file {data}; give the path of a JSONL file with one row a line")
    return replace(task, data=Path(data).absolute(), raw=None)


def _find(name: str) -> Task:
    if name in TASKS:
        return TASKS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"task: no task is called {name!r}; known: {', '.join(TASKS)}, or 'package.module:TASK' for your own")
    try:
        task = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task: cannot open {name!r}: {error}") from error
    if not isinstance(task, Task):
        raise ValueError(f"task: {name!r} is a {type(task).__name__}, not a workbook.tasks.Task")
    return task
