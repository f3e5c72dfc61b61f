"""How things look. Functions from values to parts of lines; nothing here asks, waits or decides."""
