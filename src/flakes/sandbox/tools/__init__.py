"""What a running task finds to talk to the control plane with: a socket of its own, and a `flakes` command."""
