"""Messages into bytes and back: msgpack maps. What is wrong with one is told with field, value and rule."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgpack
from pydantic import ValidationError

from everscene_bridge import protocol
from everscene_bridge.errors import CommandFailed, MessageError
from everscene_bridge.messages import (
    Bye,
    ClientMessage,
    Command,
    ErrorMessage,
    Event,
    FrameNotice,
    Hello,
    Message,
    Notice,
    Ping,
    Pong,
    Prompt,
    ReceiptMessage,
    Refusal,
    Reply,
    Seen,
    ServerMessage,
    Slots,
    Stats,
    StatsRequest,
    Welcome,
)
from everscene_bridge.wording import rule_of, short

AnyMessage = TypeVar("AnyMessage", bound=Message)

CLIENT_TYPES: Final[dict[str, type[Any]]] = {
    "hello": Hello,
    "event": Event,
    "prompt": Prompt,
    "slots": Slots,
    "seen": Seen,
    "ping": Ping,
    "stats_request": StatsRequest,
    "command": Command,
    "bye": Bye,
}
SERVER_TYPES: Final[dict[str, type[Any]]] = {
    "welcome": Welcome,
    "refused": Refusal,
    "receipt": ReceiptMessage,
    "error": ErrorMessage,
    "pong": Pong,
    "reply": Reply,
    "stats": Stats,
}


def pack(message: Message) -> bytes:
    """A message in bytes. Fields that are None are left out."""
    packed: bytes = msgpack.packb(message.model_dump(exclude_none=True))
    return packed


def unpack_client(data: bytes) -> ClientMessage:
    """Read what a client sent. Raises MessageError with a code of docs/protocol.md §8."""
    if len(data) > protocol.MAX_MESSAGE_BYTES:
        limit = protocol.MAX_MESSAGE_BYTES
        raise MessageError("too_long", f"the message has {len(data)} bytes; at most {limit} are taken")
    message: ClientMessage = _read(_unpack_map(data), CLIENT_TYPES)
    return message


def unpack_server(data: bytes) -> ServerMessage:
    """Read what a server sent. Raises MessageError."""
    message: ServerMessage = _read(_unpack_map(data), SERVER_TYPES)
    return message


def unpack_frame_notice(data: bytes) -> FrameNotice:
    """Read the second part of a `frame.…` message. Raises MessageError."""
    return _check(FrameNotice, _unpack_map(data), "frame", None)


def unpack_notice(data: bytes) -> Notice:
    """Read the second part of a `notice` message. Raises MessageError."""
    return _check(Notice, _unpack_map(data), "notice", None)


def _unpack_map(data: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(data, object_pairs_hook=_text_keys, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as problem:
        why = str(problem) or type(problem).__name__
        raise MessageError("not_msgpack", f"the message is not msgpack: {why}") from None
    if not isinstance(fields, dict):
        raise MessageError("not_map", f"the message is {_kind(fields)}, not a map")
    return fields


def _text_keys(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    for key, _ in pairs:
        if not isinstance(key, str):
            raise MessageError("not_map", f"a map has a key that is {_kind(key)}, not text")
    return dict(pairs)


def _read(fields: dict[str, Any], types: Mapping[str, type[AnyMessage]]) -> AnyMessage:
    message_id = fields.get("id")
    if isinstance(message_id, bool) or not isinstance(message_id, int) or not 1 <= message_id <= protocol.MAX_ID:
        message_id = None
    name = fields.get("type")
    model = types.get(name) if isinstance(name, str) else None
    if model is None:
        reason = f"no such message type: {short(name, 60)}" if "type" in fields else "the message has no type"
        raise MessageError("unknown_type", reason, message_id)
    return _check(model, fields, str(name), message_id)


def _check(model: type[AnyMessage], fields: dict[str, Any], name: str, message_id: int | None) -> AnyMessage:
    try:
        return model.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        place = ".".join([name, *(str(part) for part in first["loc"] if part != "[key]")])
        code = _code(first["type"])
        rule = rule_of(first)
        reason = f"{place}: {rule[:1].lower()}{rule[1:]}"
        if code != "missing_field":
            reason += f" (got {short(first['input'], 60)})"
        raise MessageError(code, reason, message_id, name) from None


def check_args(model: type[AnyMessage], args: dict[str, Any], name: str) -> AnyMessage:
    """The args of a command. Raises CommandFailed naming the arg and the rule."""
    try:
        return _check(model, args, name, None)
    except MessageError as why:
        raise CommandFailed(why.code, why.reason) from None


def _code(kind: str) -> str:
    """The code of docs/protocol.md §8 for a kind of pydantic error."""
    if kind == "missing":
        return "missing_field"
    if kind in ("string_too_long", "too_long"):
        return "too_long"
    if kind.endswith("_type") or kind in ("string_unicode", "wrong_type"):
        return "wrong_type"
    return "out_of_range"


def _kind(value: Any) -> str:
    names = {dict: "a map", list: "a list", str: "text", bytes: "bytes", bool: "a bool", int: "an integer"}
    return "nil" if value is None else names.get(type(value), "a number")
