"""The error for studies, trials and parameters that cannot be serialized."""


class SerializationError(ValueError):
    """A study, trial or parameter that cannot be serialized.  The message names study, trial and parameter if known.

    Attributes:
      reason: what is wrong, and what to do.
      study: name of the study.
      trial: the trial, as in the message ("trial 7"); None if the error does not concern a trial.
      parameter: name or path of the parameter; None if the error does not concern a parameter.
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
