"""The large models: presets as data, and the way from published files to weights that load."""
