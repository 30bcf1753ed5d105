"""Teachers: the optimizers to log, to imitate and to compare with, all as Vizier `Designer`s."""
