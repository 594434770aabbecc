"""The constants of docs/protocol.md: version, ports, limits, topics, codes, states."""

from typing import Final, Literal

VERSION: Final = (1, 0)

CONTROL_PORT: Final = 7464
FRAMES_PORT: Final = 7465
VIEWER_PORT: Final = 7466
LOOPBACK: Final = "127.0.0.1"
PLAIN_USER: Final = b"everscene"

MAX_MESSAGE_BYTES: Final = 65_536
MAX_WIRE_BYTES: Final = 16 * 1024 * 1024  # MAXMSGSIZE: beyond it ZeroMQ closes the connection
MAX_PICTURE_BYTES: Final = 8 * 1024 * 1024
MAX_PROMPT: Final = 2_000
MAX_NAME: Final = 64
MAX_SHORT: Final = 32
MAX_TEXT_PARAM: Final = 256
MAX_SLOT: Final = 400
MAX_PARAMS: Final = 32
MAX_TOKEN_BYTES: Final = 255
MAX_CLIENTS: Final = 64
MAX_WAITING: Final = 4_096
KEPT_RECEIPTS: Final = 1_024
KEPT_RECEIPTS_S: Final = 30
MAX_UNREAD: Final = 20_000
MAX_UNREAD_NOTICES: Final = 64
MAX_ID: Final = 2**63 - 1
MAX_INPUT_NOTICES_PER_SECOND: Final = 50

HEARTBEAT_MS: Final = 2_000
HEARTBEAT_TTL_MS: Final = 30_000
HEARTBEAT_TIMEOUT_MS: Final = 10_000

TOPIC_RING: Final = b"frame.ring"
TOPIC_JPEG: Final = b"frame.jpeg"
TOPIC_RAW: Final = b"frame.raw"
TOPIC_NOTICE: Final = b"notice"
JPEG_QUALITY: Final = 85

When = Literal["now", "chunk"]
Transition = Literal["text", "blend", "recache", "cut", "reset"]
"""In rising strength: when several inputs meet in one chunk, the strongest counts."""
TRANSITIONS: Final[tuple[Transition, ...]] = ("text", "blend", "recache", "cut", "reset")

State = Literal["starting", "live", "slow", "stalled", "restarting", "paused", "closing"]

FLAG_CUT: Final = 1 << 0
FLAG_OPAQUE: Final = 1 << 3
FLAG_DISCONTINUITY: Final = 1 << 4

NS: Final = 1_000_000_000
"""Nanoseconds in a second."""
