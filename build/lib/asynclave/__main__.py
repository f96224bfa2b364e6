"""``python -m asynclave``."""

from asynclave.cli import main

main()
