"""``python -m voxpair``."""

from voxpair.cli import main

main()
