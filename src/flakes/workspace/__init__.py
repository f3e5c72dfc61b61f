"""Files as immutable git commits: captured, packed, checked out, compared, merged and brought back.

A leaf: it knows git and the file system, and nothing of servers, hosts or tasks. Repositories here are
our own and bare; whatever the captured files hold (hooks, filters, attributes, submodule addresses) is
bytes to them, and nothing of it is run.
"""
