"""The errors a person sees. Each says who, what was found, and what to do."""


class RiskflowError(Exception):
    """The base of every error that is the user's to mend; the command line prints it without a traceback."""

    final = False  # whether the same attempt would fail the same way again: a task is not tried once more then


class DeclarationError(RiskflowError):
    """A use case states something that cannot work. Raised when its plan is built, never while events flow."""

    final = True

    def __init__(self, who: str, found: str, fix: str) -> None:
        super().__init__(f"{who}: {found}. {fix}.")
        self.who, self.found, self.fix = who, found, fix


class SettingsError(RiskflowError):
    """A setting has a value that cannot be used."""


class NotReady(RiskflowError):
    """Something that must stand before this can run is missing; the message names the command that makes it."""


class EventRejected(RiskflowError):
    """One message cannot be taken. `kind` is a short stable word, `where` the place in the message."""

    def __init__(self, kind: str, detail: str, where: str = "$") -> None:
        super().__init__(f"{kind}: {detail} (at {where})")
        self.kind, self.detail, self.where = kind, detail, where


class BundleRefused(RiskflowError):
    """A bundle is not what its publisher signed, or not for this plan; it is never loaded."""

    final = True


class Leave(RiskflowError):
    """This worker no longer owns a partition, or cannot be sure it does: it ends without a commit.

    The supervisor starts it again and it goes on from the state in Redis.
    """
