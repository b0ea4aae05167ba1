"""Types of the values in experiment files: sizes, names, one or many of a kind; with what their errors say."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.experiments.sizes import SizeError, parse_size

NODE_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
"""A node's name is its host name."""
WORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,47}$"
"""A name that programs can use as one."""


class Model(BaseModel):
    """Part of an experiment file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except SizeError as error:
        raise PydanticCustomError(
            "expected", "not a size", {"expected": "a size such as 64MiB, 4KiB or 4096", "near": error.near}
        ) from None


def one_or_many(value: object) -> object:
    """A lone word is a list of one."""
    return [value] if isinstance(value, str) else value


def _file(value: object) -> object:
    if not isinstance(value, str) or not PurePosixPath(value).name or "\0" in value:
        raise PydanticCustomError("expected", "not a file", {"expected": "the name of a file"})
    return value


def _argv(value: object) -> object:
    """A lone command line is a list of one."""
    return [value] if isinstance(value, list) and value and all(isinstance(word, str) for word in value) else value


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in value:
        raise PydanticCustomError("expected", "not inside", {"expected": "the name of a file in the commands' folder"})
    return value


_SIZE_SCHEMA = {"anyOf": [{"type": "string", "pattern": r"^\d+ *(B|KiB|MiB|GiB)?$"}, {"type": "integer", "minimum": 0}]}
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]
"""A size in bytes; in the file an integer, or a number with B, KiB, MiB or GiB."""
NodeName = Annotated[str, StringConstraints(pattern=NODE_PATTERN)]
Word = Annotated[str, StringConstraints(pattern=WORD_PATTERN)]
FileName = Annotated[str, BeforeValidator(_file, json_schema_input_type=str)]
"""A file of the user's, relative to the experiment file that names it."""
Words = Annotated[
    tuple[Word, ...],
    Field(min_length=1, max_length=16),
    BeforeValidator(one_or_many, json_schema_input_type=Word | Annotated[list[Word], Field(min_length=1)]),
]
"""Names, or just one."""
Argv = Annotated[tuple[str, ...], Field(min_length=1)]
CommandLines = Annotated[
    tuple[Argv, ...],
    Field(min_length=1),
    BeforeValidator(_argv, json_schema_input_type=Annotated[list[str] | list[list[str]], Field(min_length=1)]),
]
"""Command lines as lists of words, or just one; nothing of them reaches a shell."""
FileNames = Annotated[tuple[FileName, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]
InnerName = Annotated[str, AfterValidator(_inside)]
InnerNames = Annotated[tuple[InnerName, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]
"""Files that commands leave in their folder."""
