"""``python -m aura``."""

from aura.cli.main import main

main()
