"""What goes over the wire: questions, events and answers as they stand in JSON, checked strictly.

Ids are text of 1 to 256 characters without control characters. A key that is not known is refused, and so are numbers
that are not finite. A list ends at its first fault: to tell a hundred thousand takes longer than a good answer. Limits
that an operator sets (``k``, length of a history, ...) are checked where they are known, in
:mod:`segue.serving.api.dependencies`.
"""

from __future__ import annotations

from segue.serving.schemas.admin import Fault, Forgotten, Live, Models, Past, Person, Persons, Published, Taken
from segue.serving.schemas.base import WHOLE, Feature, Id, Scalar, Step, Time, Value, Wire
from segue.serving.schemas.requests import MOST, Event, Events, Given, Question, Questions, WhyQuestion
from segue.serving.schemas.responses import (
    Answer,
    Answers,
    Explanation,
    Influence,
    Item,
    Items,
    Ranked,
    Reason,
    Unknown,
    Version,
)
from segue.serving.schemas.rules import Boost, Condition, Pin, Rules, Where

__all__ = [
    "MOST",
    "WHOLE",
    "Answer",
    "Answers",
    "Boost",
    "Condition",
    "Event",
    "Events",
    "Explanation",
    "Fault",
    "Feature",
    "Forgotten",
    "Given",
    "Id",
    "Influence",
    "Item",
    "Items",
    "Live",
    "Models",
    "Past",
    "Person",
    "Persons",
    "Pin",
    "Published",
    "Question",
    "Questions",
    "Ranked",
    "Reason",
    "Rules",
    "Scalar",
    "Step",
    "Taken",
    "Time",
    "Unknown",
    "Value",
    "Version",
    "Where",
    "WhyQuestion",
    "Wire",
]
