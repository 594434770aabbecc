"""What the engine raises for a user.

EngineError
├── ConfigError          a size or an option that cannot work
├── CheckpointError      a weights file that is missing, damaged or of another model
├── PromptRejected       a prompt that the text encoder cannot take
├── SnapshotError        a snapshot of another model, or a damaged one
├── GenerationFailed     numbers that are no picture: NaN or infinity in the latents
└── RankLost             one of the processes that make a stream together ended or hangs
"""


class EngineError(Exception):
    """The root of all that the engine raises on purpose."""


class ConfigError(EngineError):
    """A configuration that cannot work; the message names the value and the rule."""


class CheckpointError(EngineError):
    """A weights file that is missing, damaged or of another model; the message names the tensor."""


class PromptRejected(EngineError):
    """A prompt that the text encoder cannot take; the message says which words and why."""


class SnapshotError(EngineError):
    """A snapshot of another model, or a damaged one; the message names both models, or what is missing."""


class GenerationFailed(EngineError):
    """The latents hold NaN or infinity."""


class RankLost(EngineError):
    """One of several ranks ended or hangs, so the stream cannot go on; the message says which, and how it ended."""
