"""Everything that crosses a process boundary: API models, stream messages, events, errors, config files.

Types are `msgspec` structs: snake_case in Python, camelCase in JSON. Readers ignore unknown fields of
stream messages (an older peer must survive a newer one); API request bodies refuse them by name.
"""
