"""The commands, one file a group. A module here is imported only when its command is named."""
