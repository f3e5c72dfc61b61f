"""Harnesses to begin with: `flakes harness init --template NAME` copies one."""
