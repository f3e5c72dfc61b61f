"""The web console: its static files, and the pages of the documentation that it shows.

The console is a client of the public API like any other. Nothing here knows the server; `server.console`
serves these bytes.
"""
