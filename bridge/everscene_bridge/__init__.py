"""The process around the engine: protocol, frame ring, server, client, scene files, viewer, command line. No torch."""
