"""The `flakes` command: one file a command group in `commands`, what things look like in `render`.

Start-up is kept short by importing a command's module only when that command is named.
"""
