"""Stand-ins for what the tests cannot have: the Anthropic API, and a CLI that fails on request."""
