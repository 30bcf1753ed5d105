"""The error of everything that cannot be serialized."""


class SerializationError(ValueError):
    """A study, trial or parameter that has no tokens.  The message names all that is known of where.

    Attributes:
      reason: what is wrong, and what to do.
      study: name of the study.
      trial: the trial, as in the message ("trial 7"); None if it is not about one.
      parameter: name or path of the parameter; None if it is not about one.
    """

    def __init__(self, reason: str, *, study: str, trial: str | None = None, parameter: str | None = None):
        where = [f"study {study!r}"]
        where += [trial] if trial is not None else []
        where += [f"parameter {parameter!r}"] if parameter is not None else []
        super().__init__(f"{', '.join(where)}: {reason}")
        self.reason = reason
        self.study = study
        self.trial = trial
        self.parameter = parameter
