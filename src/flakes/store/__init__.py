"""The only package with SQL: the schema, the named statements by area, the blob store, the embedded server.

Rules live in `core`; this package locks rows, asks `core`, and writes the answer and its event in one
transaction. Lock order is run, then group, then task, everywhere: every statement that changes a task or
an assignment runs in a transaction that has locked the task's run first. The one exception is the
scheduler's claim, which never waits for a lock (`skip locked`).
"""
