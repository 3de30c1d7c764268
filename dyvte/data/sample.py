"""One sample: the messages up to a question, and what is known of the right answer.

Knows no file format, no model and no tokenizer. ``Skips`` is the account of the rows that could
not be read: what is wrong with a row is told by its line, never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dyvte.data.pictures import Picture, PictureError
from dyvte.errors import DyvteError
from dyvte.prompt import Message


class DataError(DyvteError, ValueError):
    """A data file that cannot be read at all, or rows that are not samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A question to a model.

    ``messages`` end with the user's turn; the ``image`` of an image part is a ``Picture`` until
    ``load`` opens it. ``answer`` is the given answer, ``answers`` all accepted ones (``answer``
    alone where there are no others), ``choices`` the options of a multiple choice. ``kind`` is a
    free label ("" if none). ``line`` counts from 1; ``group`` is the row of the file, from 0, that
    was the first to show the sample's first picture: a split must not tear a group apart.
    """

    id: str
    line: int
    group: int
    messages: tuple[Message, ...]
    answer: str | None = None
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    kind: str = ""

    @property
    def conversation(self) -> bool:
        """True if the user speaks more than once."""
        return [message["role"] for message in self.messages].count("user") > 1

    @property
    def pictures(self) -> list[Picture]:
        """Pictures of all messages, in order."""
        return [
            part["image"]
            for message in self.messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image"
        ]

    def load(self) -> list[Message]:
        """The messages with PIL images, as ``dyvte.Model.prompt`` takes them.

        Raises PictureError for a picture that cannot be decoded.
        """
        return [_opened(message) for message in self.messages]


def _opened(message: Message) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [
        {**part, "image": part["image"].open()} if part["type"] == "image" else part
        for part in content
    ]
    return {**message, "content": parts}


@dataclass(frozen=True, slots=True)
class Skip:
    """A row that was passed over: where and why."""

    line: int
    reason: str


@dataclass(slots=True)
class Skips:
    """The rows passed over so far."""

    rows: list[Skip] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.rows)

    def add(self, line: int, reason: str) -> None:
        """Note one."""
        self.rows.append(Skip(line, " ".join(reason.split())))

    def report(self, most: int = 20) -> list[str]:
        """``line 7: reason`` for the first ``most`` rows, and how many more there are."""
        lines = [f"line {skip.line}: {skip.reason}" for skip in self.rows[:most]]
        more = self.count - most
        return [*lines, f"… and {more} more"] if more > 0 else lines


def loaded(samples: Iterable[Sample], skips: Skips) -> Iterator[tuple[Sample, list[Message]]]:
    """Each sample with its pictures opened; one whose picture is broken goes to ``skips``."""
    for sample in samples:
        try:
            messages = sample.load()
        except PictureError as error:
            skips.add(sample.line, str(error))
            continue
        yield sample, messages
