"""The judges: small networks that read generated frames, trained on renders of the world and on nothing else."""
