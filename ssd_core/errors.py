"""The errors that a user's mistake raises."""


class UserError(ValueError):
    """What is wrong and what to do about it, in one sentence that can be shown as it is."""


class OutOfMemoryError(UserError):
    """More was asked for than memory holds."""


OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # CUDA and MPS, Windows, Linux


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out; only CUDA's has a class of its own."""
    return any(sign in str(error) for sign in OUT_OF_MEMORY)
