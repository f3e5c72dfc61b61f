"""What running tasks ask for: one module a noun, each with a table of handlers by operation name."""
