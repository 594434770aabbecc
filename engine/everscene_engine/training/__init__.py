"""How the models are made: the procedural world, and one module for each training stage."""
