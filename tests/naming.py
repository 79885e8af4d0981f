"""Names of test cases that are the same in each of the processes that share the work."""

import re


def without_address(value: object) -> str:
    """A value as text, without the address that an object has."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
