"""Problems to tune: Vizier `Experimenter`s over real models, benchmark functions and surrogates."""
