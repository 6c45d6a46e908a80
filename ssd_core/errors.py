"""The errors that a user's mistake raises."""


class UserError(ValueError):
    """What is wrong and what to do about it, in one sentence that can be shown as it is."""


class OutOfMemoryError(UserError):
    """More was asked for than memory holds."""
