"""The library's exception types: one line that says what is wrong and what to do."""

_LONGEST = 2000


class TicketsError(Exception):
    """Base class of every error that hf_tickets raises on purpose.

    Args:
        message: What is wrong and what to do. It may quote a stranger's file: it becomes one line of bounded length,
            without codes that a terminal would act on.
    """

    def __init__(self, message: object = "") -> None:
        words = " ".join(str(message).split())
        super().__init__("".join(letter if letter.isprintable() else "\ufffd" for letter in words)[:_LONGEST])


class PruningError(TicketsError):
    """A mask cannot be chosen: bad configuration, nothing in scope, or weights that are not finite."""


class TicketFileError(TicketsError):
    """A ticket's files are missing, damaged, or of an unknown format."""


class TicketMismatchError(TicketsError):
    """A ticket does not fit the model it is applied to."""


class SparsityError(TicketsError):
    """A ticket has no rung at the sparsity that was asked for."""


class RunFolderError(TicketsError):
    """A run folder cannot be continued: another configuration, other weights, or damaged state."""


class RecipeError(TicketsError):
    """A recipe or a command-line option is wrong: unknown key, or a value of another type."""


class DataError(TicketsError):
    """A dataset cannot be used: it cannot be read, or a column or label is not what was asked for."""


class HubError(TicketsError):
    """The Hub refused, could not be reached, or does not have what was asked for."""
