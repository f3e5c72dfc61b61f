"""`python -m flakes` is `flakes`, for programs that know an interpreter and no PATH."""

from flakes.cli.main import main

main()
