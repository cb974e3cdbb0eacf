"""Settings that turn text of the catalog into an item feature."""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_validator

from segue.core.config import Settings, parse
from segue.features.text.encoder import TextEncoder, create_encoder, encoder_class

__all__ = ["TextSettings"]


class TextSettings(Settings):
    """Which text of the items is encoded as vectors, and how."""

    columns: tuple[str, ...] = ()
    """Item features to encode, such as ``[title, plot]``; empty: no text. The texts of an item are joined in this
    order; a list of texts is joined with commas."""
    encoder: str = "transformer"
    """Key of the text encoder: ``transformer`` (any BERT-family model), ``tfidf``, ``word2vec`` (trained on these
    texts) or ``word_vectors`` (pretrained)."""
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Settings of the encoder by name, such as ``{"pooling": "cls"}``; the others have their defaults."""
    name: str = "text_vector"
    """Name of the item feature that holds the vectors."""

    @field_validator("columns", mode="before")
    @classmethod
    def _accept_one_column(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.columns:
            kind = _prefix_errors(encoder_class, self.encoder)
            options: Settings = _prefix_errors(parse, kind.Config, self.options, "text.options")
            object.__setattr__(self, "options", options.model_dump(mode="json"))  # the defaults may change later
            self._check_names()
            return self
        for name, field in type(self).model_fields.items():
            if name != "columns" and getattr(self, name) != field.default:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, but text.columns names no text to encode")
        return self

    def _check_names(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: got {', '.join(self.columns)}, expected each column once")
        if not self.name or self.name in (*self.columns, "id", "title", "genres"):
            raise ValueError(f"name: got {self.name!r}, expected a name that no other item feature has")

    def create(self) -> TextEncoder:
        """Create the encoder, which has learned nothing yet."""
        return create_encoder(self.encoder, self.options)


def _prefix_errors(function: Any, *args: Any) -> Any:
    """Call ``function``, and remove from errors the group that the parser adds."""
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError("\n".join(line.removeprefix("text.") for line in str(error).splitlines())) from None
