"""Numbers in messages."""


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> count_of(1, "picture"), count_of(2000, "picture")
    ('1 picture', '2,000 pictures')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
