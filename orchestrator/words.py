"""Words for what is counted."""


def counted(number: int, word: str) -> str:
    """`1 point`, `2 points`."""
    return f"{number:,} {word}{'s' if number != 1 else ''}"
