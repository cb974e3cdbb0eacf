"""Settings that turn text of items and users into features."""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_validator

from segue.core.config import Settings, parse
from segue.features.text.encoder import TextEncoder, create_encoder, encoder_class

__all__ = ["TextSettings"]


class TextSettings(Settings):
    """Which text of items and users is encoded as vectors, and how."""

    columns: tuple[str, ...] = ()
    """Item features to encode, such as ``[title, plot]``; empty: no text. The texts of an item are joined in this
    order; a list of texts is joined with commas."""
    user_columns: tuple[str, ...] = ()
    """User features to encode likewise, such as ``[description]``; empty: none. The encoder learns from texts of users
    and of items separately."""
    encoder: str = "transformer"
    """Key of the text encoder: ``transformer`` (any BERT-family model), ``tfidf``, ``word2vec`` (trained on these
    texts) or ``word_vectors`` (pretrained)."""
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Settings of the encoder by name, such as ``{"pooling": "cls"}``; the others have their defaults."""
    name: str = "text_vector"
    """Name of the item feature, and of the user feature, that holds the vectors."""

    @field_validator("columns", "user_columns", mode="before")
    @classmethod
    def _accept_one_column(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.columns or self.user_columns:
            kind = _prefix_errors(encoder_class, self.encoder)
            options: Settings = _prefix_errors(parse, kind.Config, self.options, "text.options")
            object.__setattr__(self, "options", options.model_dump(mode="json"))  # the defaults may change later
            self._check_names()
            return self
        for name, field in type(self).model_fields.items():
            if name not in ("columns", "user_columns") and getattr(self, name) != field.default:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, but text.columns names no text to encode, and neither does "
                    "text.user_columns"
                )
        return self

    def _check_names(self) -> None:
        for field, columns in (("columns", self.columns), ("user_columns", self.user_columns)):
            if len(set(columns)) < len(columns):
                raise ValueError(f"{field}: got {', '.join(columns)}, expected each column once")
        if not self.name or self.name in (*self.columns, *self.user_columns, "id", "title", "genres"):
            raise ValueError(f"name: got {self.name!r}, expected a name that no other feature has")

    def create(self) -> TextEncoder:
        """Create the encoder, which has learned nothing yet."""
        return create_encoder(self.encoder, self.options)


def _prefix_errors(function: Any, *args: Any) -> Any:
    """Call ``function``, and remove from errors the group that the parser adds."""
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError("\n".join(line.removeprefix("text.") for line in str(error).splitlines())) from None
