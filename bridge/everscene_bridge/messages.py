"""Every message of docs/protocol.md §4 to §6 as a type. (`message_bytes.py` turns them into bytes and back.)

Messages from clients are checked hard: what is wrong is named with field, value and rule. Messages from the
server are read with patience: unknown fields are ignored and absent ones are None, so that an older client
understands a newer server.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from everscene_bridge import protocol
from everscene_bridge.protocol import Transition, When
from everscene_bridge.ways import LONGEST_BLEND_S, Blend, Ease, Way
from everscene_engine.port import BlendPath


def _without_control_characters(text: str) -> str:
    for character in text:
        if ord(character) < 0x20 or ord(character) == 0x7F or 0xD800 <= ord(character) <= 0xDFFF:
            raise ValueError(f"holds the control character U+{ord(character):04X}")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


def _param_value(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise PydanticCustomError("out_of_range", "must fit a signed 64-bit integer")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("out_of_range", "must be finite")
        return value
    if isinstance(value, str):
        if len(value) > protocol.MAX_TEXT_PARAM:
            raise PydanticCustomError("too_long", "must have at most 256 characters")
        return _without_control_characters(value)
    raise PydanticCustomError("wrong_type", "must be a bool, a number or text")


Id = Annotated[int, Field(ge=1, le=protocol.MAX_ID)]
Int = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Plain = AfterValidator(_without_control_characters)
Name = Annotated[str, StringConstraints(min_length=1, max_length=protocol.MAX_NAME), Plain]
Short = Annotated[str, StringConstraints(max_length=protocol.MAX_SHORT), Plain]
PromptText = Annotated[
    str, StringConstraints(min_length=1, max_length=protocol.MAX_PROMPT), Plain, AfterValidator(_not_blank)
]
SlotWords = Annotated[str, StringConstraints(max_length=protocol.MAX_SLOT), Plain]
ParamValue = Annotated[bool | int | float | str, PlainValidator(_param_value)]
Params = Annotated[dict[Name, ParamValue], Field(max_length=protocol.MAX_PARAMS)]
VersionPair = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=2, max_length=2)]


class Message(BaseModel):
    """Base of all: strict about types, deaf to unknown fields, never changed after it is made."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


# Control, client to server


class Hello(Message):
    """The first message of a connection."""

    type: Literal["hello"] = "hello"
    protocol: VersionPair
    client: Name
    client_id: Id
    language: Short | None = None
    version: Short | None = None


class Event(Message):
    """A named event of the scene."""

    type: Literal["event"] = "event"
    id: Id
    name: Name
    params: Params | None = None
    when: When | None = None
    client_ns: Int | None = None


class _Steered(Message):
    """How the picture goes to the new prompt; absent fields stand for the defaults."""

    transition: Transition | None = None
    seconds: Annotated[float, Field(gt=0, le=LONGEST_BLEND_S)] | None = None  # of a blend
    ease: Ease | None = None  # of a blend
    path: BlendPath | None = None  # of a blend

    @property
    def way(self) -> Way:
        """The same for the stream."""
        blend = Blend(self.seconds or Blend.seconds, self.ease or Blend.ease, self.path or Blend.path)
        return Way(self.transition or "recache", blend)


class Prompt(_Steered):
    """A whole prompt in place of the scene's."""

    type: Literal["prompt"] = "prompt"
    id: Id
    text: PromptText
    when: When | None = None
    client_ns: Int | None = None


class Slots(_Steered):
    """Words for slots of the scene, set directly."""

    type: Literal["slots"] = "slots"
    id: Id
    slots: Annotated[dict[Name, SlotWords], Field(min_length=1, max_length=protocol.MAX_PARAMS)]
    when: When | None = None
    client_ns: Int | None = None


class Seen(Message):
    """The client showed a frame."""

    type: Literal["seen"] = "seen"
    frame: Id
    seen_ns: Int


class Ping(Message):
    """Asks for a pong."""

    type: Literal["ping"] = "ping"
    id: Int | None = None
    client_ns: Int | None = None


class StatsRequest(Message):
    """Asks for stats."""

    type: Literal["stats_request"] = "stats_request"
    id: Int | None = None


class Command(Message):
    """A request by name, answered by a reply."""

    type: Literal["command"] = "command"
    id: Id
    name: Name
    args: dict[str, Any] | None = None


class Bye(Message):
    """The last message of a client."""

    type: Literal["bye"] = "bye"


ClientMessage = Hello | Event | Prompt | Slots | Seen | Ping | StatsRequest | Command | Bye


# Control, server to client


class RingPlace(Message):
    """Where the ring lies."""

    path: str
    ring_id: int
    slot_count: int
    file_bytes: int


class ParamDescription(Message):
    """A param of an event, as clients build controls from it."""

    name: str
    label: str
    type: str  # "number", "choice", "text", "flag", or one that a newer server knows
    min: float | None = None
    max: float | None = None
    choices: list[str] | None = None
    max_length: int | None = None
    default: bool | float | str | None = None


class EventDescription(Message):
    """An event of the scene, as clients build controls from it."""

    name: str
    label: str
    group: str = ""
    when: str = "now"
    for_s: float | None = None
    params: list[ParamDescription] = []


class SlotDescription(Message):
    """A slot of the scene."""

    name: str
    default: str
    choices: list[str] | None = None  # None: any words


class SceneDescription(Message):
    """What the scene offers."""

    name: str
    events: list[EventDescription]
    slots: list[SlotDescription] = []


class Welcome(Message):
    """The server takes the client."""

    type: Literal["welcome"] = "welcome"
    protocol: list[int]
    epoch: int
    server: str
    model: str
    width: int
    height: int
    fps: float
    frames_per_chunk: int
    steps: int
    seed: int
    device: str
    ring: RingPlace | None = None
    frames_endpoint: str
    viewer: str | None = None
    scene: SceneDescription
    prompt: str
    frame: int
    state: str
    now_ns: int


class Refusal(Message):
    """The server does not take the client."""

    type: Literal["refused"] = "refused"
    code: str
    reason: str
    protocol: list[int]


class ReceiptMessage(Message):
    """What became of an event or prompt."""

    type: Literal["receipt"] = "receipt"
    id: int
    client_ns: int | None = None
    state: Literal["accepted", "applied", "superseded", "rejected"]
    order: int | None = None
    frame: int | None = None
    chunk: int | None = None
    latency_ms: float | None = None
    prompt: str | None = None
    by: int | None = None
    code: str | None = None
    reason: str | None = None


class ErrorMessage(Message):
    """A message could not be taken."""

    type: Literal["error"] = "error"
    id: int | None = None
    code: str
    reason: str


class Pong(Message):
    """Answer to ping."""

    type: Literal["pong"] = "pong"
    id: int | None = None
    client_ns: int | None = None
    server_ns: int
    epoch: int


class Reply(Message):
    """Answer to a command."""

    type: Literal["reply"] = "reply"
    id: int
    ok: bool
    result: dict[str, Any] | None = None
    code: str | None = None
    reason: str | None = None


class DistributionMessage(Message):
    """`n` values in all; the others over the latest of them."""

    n: int
    p50: float
    p95: float
    max: float


class InputCounts(Message):
    """Events and prompts so far."""

    accepted: int
    applied: int
    superseded: int
    rejected: int
    waiting: int


class Stats(Message):
    """Counts and times since the start of the epoch; docs/protocol.md §5 says what each is."""

    type: Literal["stats"] = "stats"
    id: int | None = None
    epoch: int
    uptime_s: float
    state: str
    frame: int
    chunk: int
    prompt: str
    fps: float
    content_fps: float
    generation_fps: float
    lead_ms: float
    held: int
    shifted_ms: float
    frames: int
    chunks: int
    dropped_chunks: int
    discarded_frames: int
    restarts: int
    clients: int
    inputs: InputCounts
    errors: int
    latency_ms: DistributionMessage
    seen_ms: DistributionMessage
    stages_ms: dict[str, DistributionMessage]


ServerMessage = Welcome | Refusal | ReceiptMessage | ErrorMessage | Pong | Reply | Stats


# Frames socket


class Stamps(Message):
    """Points in time on the server's clock, ns; 0 = none."""

    received: int = 0
    recached: int = 0
    denoised: int = 0
    decoded: int = 0
    published: int = 0


class FrameNotice(Message):
    """A frame was committed."""

    frame: int
    epoch: int
    ring_id: int
    slot: int
    width: int
    height: int
    stride: int
    pts_ns: int
    chunk: int
    index: int
    order: int
    prompt: str
    flags: int
    stamps_ns: Stamps


class Notice(Message):
    """News. Which of the later fields are set follows from `kind`."""

    kind: str
    epoch: int
    at_ns: int
    text: str | None = None  # prompt
    order: int | None = None  # prompt, input
    frame: int | None = None  # prompt
    chunk: int | None = None  # prompt
    client_id: int | None = None  # input
    client: str | None = None  # input
    event: str | None = None  # input
    params: dict[str, ParamValue] | None = None  # input
    prompt: str | None = None  # input
    slots: dict[str, str] | None = None  # input
    skipped: int | None = None  # input
    state: str | None = None  # state
    reason: str | None = None  # state
    ring: RingPlace | None = None  # ring_changed
    scene: SceneDescription | None = None  # scene
