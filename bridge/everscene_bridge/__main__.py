"""`python -m everscene_bridge` is the `everscene` command."""

from everscene_bridge.cli import main

main()
