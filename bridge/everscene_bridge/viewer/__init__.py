"""The page that shows the stream and steers it: `start` serves it from a thread of its own.

The viewer is a client of the sidecar like any other. It knows the control endpoint and nothing of the server's insides.
"""

from everscene_bridge.viewer.serving import ViewerHandle, start

__all__ = ["ViewerHandle", "start"]
