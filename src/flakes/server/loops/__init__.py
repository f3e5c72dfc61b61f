"""Background loops, one a file: each is a `run_once` and nothing more; `loop.py` runs them."""
