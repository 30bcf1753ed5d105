"""Values of parameters in the three forms of the plain loop: the user's, the model's, and the journal's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32
from vizier import pyvizier as vz

from optformer.serialization.space import StudySchema
from optformer.serve.dictionary_spaces import plain
from optformer.serve.domains import Choices, Domain, own_values


class PlainValues:
    """Converts the values of one search space.

    The journal has the user's values if JSON can store them without loss, else the model's.
    """

    def __init__(self, schema: StudySchema, domains: Mapping[str, Domain]):
        """
        Args:
          schema: slots of the search space.
          domains: domain of each parameter if the space was given as a dictionary.  Empty for a space of Vizier's: the
            user's values are then the model's.
        """
        self._schema, self._domains = schema, domains

    def own(self, which: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The values in the form of the space: 3 for NumPy's 3, True for 1 if the choices are booleans.

        Raises:
          ValueError: as in `to_model`.
        """
        if self._domains:
            return own_values(self._domains, parameters, which, partial=True)
        return {name: plain(value) for name, value in parameters.items()}

    def to_model(self, which: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The model's values for the user's.

        Args:
          which: the trial or point with these values, for messages.
          parameters: values of some parameters.

        Raises:
          ValueError: in a space given as a dictionary, an unknown parameter or a value outside its domain (named).
        """
        if not self._domains:
            return dict(parameters)
        own = own_values(self._domains, parameters, which, partial=True)
        return {name: self._domains[name].to_model(value) for name, value in own.items()}

    def from_model(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The user's values for the model's."""
        if not self._domains:
            return dict(parameters)
        return {name: self._domains[name].from_model(value) for name, value in parameters.items()}

    def encode(self, which: str, parameters: Mapping[str, Any]) -> Int32[np.ndarray, " slot"]:
        """Parameter tokens of the user's values, [D].

        Raises:
          ValueError: a value is outside the space (names the parameter).
        """
        (row,) = self._schema.encode([self.to_model(which, parameters)])
        return row

    def decode(self, row: Int32[np.ndarray, " slot"]) -> dict[str, Any]:
        """The user's values for parameter tokens."""
        return self.from_model(self._schema.decode(row))

    def trial(self, number: int, parameters: Mapping[str, Any]) -> vz.Trial:
        """A trial of Vizier's with the model's values.

        Raises:
          ValueError: as in `encode`.
        """
        values = self.to_model(f"trial {number}", parameters)
        (row,) = self._schema.encode([values])
        trial = vz.Trial(id=number, parameters=self._schema.decode_parameters(row))
        # Numbers are not rounded to levels, since those that the user chose may lie between two levels.
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                trial.parameters[name] = value
        return trial

    def of_trial(self, trial: vz.Trial) -> dict[str, Any]:
        """The user's values of such a trial, without inactive parameters."""
        (row,) = self._schema.encode([trial])
        values = self._schema.decode(row)
        given = trial.parameters.as_dict()
        exact = {name: given[name] for name, value in values.items() if isinstance(value, float) and name in given}
        return self.from_model(values | exact)

    def to_json(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The journal's values for the user's, which must be in the space."""
        return {
            name: value if self._is_json(name) else self._domains[name].to_model(value)
            for name, value in parameters.items()
        }

    def from_json(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The user's values for the journal's."""
        return {
            name: value if self._is_json(name) else self._domains[name].from_model(value)
            for name, value in parameters.items()
        }

    def _is_json(self, name: str) -> bool:
        domain = self._domains.get(name)
        return (
            not isinstance(domain, Choices)
            or all(isinstance(value, str) for value in domain.values)
            or all(isinstance(value, bool) for value in domain.values)
        )
