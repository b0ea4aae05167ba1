"""The JSON Schema of experiment files, with which editors complete and check.

A file that extends others need not hold what those do. So there are two schemas in one: the models as they are, and the
same without any key being required, for files with the key `extends`.
"""

from typing import Any

from orchestrator.experiments.experiment import Experiment

_EXTENDING = "Extending"
"""In front of the names of the second kind."""


def json_schema() -> dict[str, Any]:
    """The schema, in the draft 2020-12."""
    whole = Experiment.model_json_schema()
    definitions = whole.pop("$defs")
    parts = {name: _in_part(definition) for name, definition in definitions.items()}
    part = _in_part(whole)
    changed = {name for name, definition in parts.items() if definition != definitions[name]}
    while wider := {name for name in parts.keys() - changed if _refers(parts[name], changed)}:
        changed |= wider
    own = {f"{_EXTENDING}{name}": _renamed(parts[name], changed) for name in sorted(changed)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Experiment",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"#/$defs/{_EXTENDING}Experiment"},
        "else": {"$ref": "#/$defs/Experiment"},
        "$defs": {**definitions, "Experiment": whole, f"{_EXTENDING}Experiment": _renamed(part, changed), **own},
    }


def _in_part(schema: Any) -> Any:
    """Without `required`, and with alternatives that may overlap: what would tell them apart may be in another file."""
    if isinstance(schema, list):
        return [_in_part(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _in_part(value) for key, value in schema.items() if key not in ("required", "discriminator")}
    for word in kept.keys() & {"properties", "patternProperties"}:
        kept[word] = {key: _nullable(value) for key, value in kept[word].items()}
    if isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = _nullable(kept["additionalProperties"])
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    if isinstance(kept.get("minProperties"), int):
        del kept["minProperties"]
    return kept


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """`null` takes a key away."""
    if isinstance(schema.get("type"), str) and not {"const", "enum"} & schema.keys():
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _refers(schema: Any, names: set[str]) -> bool:
    if isinstance(schema, list):
        return any(_refers(each, names) for each in schema)
    if not isinstance(schema, dict):
        return False
    return any(_refers(each, names) for each in schema.values()) or _name(schema) in names


def _renamed(schema: Any, names: set[str]) -> Any:
    """With references to `names` made ones to their second kind."""
    if isinstance(schema, list):
        return [_renamed(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(value, names) for key, value in schema.items()}
    if _name(schema) in names:
        renamed["$ref"] = f"#/$defs/{_EXTENDING}{_name(schema)}"
    return renamed


def _name(schema: dict[str, Any]) -> str:
    reference = schema.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
