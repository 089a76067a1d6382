"""Placeholder until the command reference lands."""


def render() -> str:
    """The page ``docs/reference/commands.md``."""
    return "# Commands\n"
