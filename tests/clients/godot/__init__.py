"""The Godot addon, driven in the real engine."""
