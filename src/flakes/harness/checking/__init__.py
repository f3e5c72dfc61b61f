"""What `flakes harness check` looks at: rules of the text, types, cases, and a replay of each case."""
