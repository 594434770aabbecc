"""The procedural world: what the pocket model watches while it learns, and the words that describe it."""
