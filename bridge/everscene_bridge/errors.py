"""What can go wrong around the engine, as one tree.

EversceneError
├── SettingsError            a setting has a value that cannot be; names option, value and rule
├── SceneError               a scene file or a param of an event; names file, field, value and rule
├── PortTaken                an address is in use; names the option to change
├── RingError
│   ├── RingUnreadable       no such ring, not a ring, or another version
│   └── Overwritten          the writer came round while a frame was being copied
├── SnapshotUnreadable       no such snapshot, a damaged one, or another format
├── ReplayError              a log of a run that cannot be read
├── CommandFailed            a command cannot be done; bears code and reason
├── MessageError             bytes that are no message of the protocol; bears code, reason, id
├── InputRejected            the server does not accept an event or prompt; bears code and reason
└── ClientError
    ├── Disconnected         no server answers, or the client was closed
    ├── Refused              the server does not want this client: version, token, too many
    ├── NotInTime            nothing came within the timeout; also a TimeoutError
    ├── RequestFailed        the server answered a request with an error
    ├── Rejected             final receipt: the event or prompt was not taken; bears code and reason
    └── Superseded           final receipt: a later one took its place; bears `by`
"""


class EversceneError(Exception):
    """Root of everything that this package raises on purpose."""


class SettingsError(EversceneError):
    """A setting has a value that cannot be."""


class SceneError(EversceneError):
    """A scene file, or a param of one of its events, does not say what it must."""


class PortTaken(EversceneError):
    """An address is in use already."""


class RingError(EversceneError):
    """Something is wrong with a frame ring."""


class RingUnreadable(RingError):
    """There is no ring that this reader can read at the path."""


class Overwritten(RingError):
    """The slot held another frame, or got one while it was copied."""


class SnapshotUnreadable(EversceneError):
    """There is no snapshot that can be read at the path."""


class ReplayError(EversceneError):
    """The log of a run cannot be read, or holds what no run writes; names file and line."""


class CommandFailed(EversceneError):
    """A command cannot be done; `code` is one of docs/protocol.md §8."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MessageError(EversceneError):
    """Bytes that are no message of the protocol.

    `code` is one of docs/protocol.md §8, `id` and `type` are those of the message where they could be read.
    """

    def __init__(self, code: str, reason: str, message_id: int | None = None, message_type: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.id = message_id
        self.type = message_type


class InputRejected(EversceneError):
    """The server does not accept an event or prompt."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ClientError(EversceneError):
    """Something went wrong between a client and its server."""


class Disconnected(ClientError):
    """No server answers, or the client was closed."""


class Refused(ClientError):
    """The server does not want this client."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class NotInTime(ClientError, TimeoutError):
    """What was waited for did not come within the timeout."""


class RequestFailed(ClientError):
    """The server answered a request with an error."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class Rejected(ClientError):
    """The event or prompt was not taken."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Superseded(ClientError):
    """Another event or prompt took its place before a frame was generated under it; `by` is that one's order."""

    def __init__(self, by: int) -> None:
        super().__init__(f"superseded by the event or prompt with order {by}")
        self.by = by
