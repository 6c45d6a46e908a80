"""`python -m ssd_core`: the command line."""

from .cli import main

main()
