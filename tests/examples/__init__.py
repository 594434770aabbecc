"""The examples, run as people run them, with the real model."""
