"""What pydantic finds wrong, in words for people: the rule that a value breaks, as `must be at most 100`."""

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_RULES = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "string_unicode": "must be whole Unicode characters",
    "bytes_type": "must be bytes",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a map of names to values",
    "model_type": "must be a map of names to values",
    "model_attributes_type": "must be a map of names to values",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "needs a {discriminator}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}

_LONGEST = 80

_limited = reprlib.Repr()
_limited.maxstring = _limited.maxother = _limited.maxlong = 2 * _LONGEST


def short(value: Any, most: int = _LONGEST) -> str:
    """A value as Python writes it, in at most so many characters. Whoever sent it may have nested it as deep as he
    likes: only the outer levels are looked at, where `repr` would go down until the stack is full."""
    text = _limited.repr(value[:most] if isinstance(value, str | bytes) else value)
    return text if len(text) <= most else text[: most - 1] + "…"


def rule_of(error: ErrorDetails) -> str:
    """The rule that was broken; of the kinds that are not known here, pydantic's own sentence."""
    rule = _RULES.get(error["type"])
    if rule is None:
        return error["msg"].removeprefix("Value error, ")
    if error["type"] in ("too_short", "string_too_short") and _context(error).get("min_length") == 1:
        return "must not be empty"
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        return "must be text: YAML reads on, off, yes and no as true and false, unless they stand in quotes"
    try:
        return rule.format(**{name: _plain(value) for name, value in _context(error).items()})
    except KeyError:  # an error of our own, whose kind is called like one of pydantic's
        return error["msg"]


def first_of(problem: ValidationError) -> str:
    """The first thing that is wrong with what a program sends, by field, rule and value."""
    error = problem.errors(include_url=False)[0]
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    got = "" if error["type"] in ("missing", "extra_forbidden") else f" (got {short(error['input'])})"
    return f"{place} {rule_of(error)}{got}".strip()


def _context(error: ErrorDetails) -> Mapping[str, Any]:
    return error.get("ctx", {})


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")
