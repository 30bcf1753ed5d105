"""Problems to tune: Vizier `Experimenter`s of real models, benchmark functions and surrogates."""
