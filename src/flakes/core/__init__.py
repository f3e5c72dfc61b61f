"""Pure rules: what may happen to runs, tasks and assignments, and where a task may run.

Nothing here reads a clock, a file, the environment or a random source, and nothing here logs:
time and randomness come in as arguments, decisions go out as values. Standard library only.
"""
