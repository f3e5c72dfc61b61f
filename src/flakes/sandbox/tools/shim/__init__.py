"""The `flakes` command inside a task. Standard library only, and little of that: it starts in milliseconds."""
