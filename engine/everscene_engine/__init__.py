"""The model and the stream: transformer, cache, sampler, decoders, text, checkpoints, training. No sockets."""
