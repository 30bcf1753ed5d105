"""`nano-3`: one checkpoint for studies with and without earlier studies and learning curves.

    optformer train nano_3 --workdir DIR --set corpus=real.jsonl.gz --set init=nano_3_mean

It starts from a mean of weights: a quarter of `nano-2` and three quarters of the result of `nano_3_curves`
(`optformer checkpoint average`).  Half of each batch is the synthetic prior, a fifth of the earlier studies mislead,
and the learning rate falls to zero from the first steps on.  `nano-3` is the mean of the weights before and after this
run.

Data: the synthetic prior, a fifth of it with curves and two fifths with earlier studies, and the corpus of
`nano_3_curves`, half and half.
Hardware: two CPU cores.
Time: an hour, beside other work.
Score: regret on the real validation .76, .44, .18, .10 after 5, 10, 25 and 50 trials; .82, .47, .20, .11 with twice as
many candidates per suggestion, with which `nano-2` has .86, .45, .18, .11.
"""

import dataclasses

from optformer.configs import nano_3_curves
from optformer.train.config import TrainConfig


def get_config() -> TrainConfig:
    """`nano_3_curves` with more of the prior, and learning rates that fall from the start."""
    config = nano_3_curves.get_config()
    return dataclasses.replace(
        config,
        init="nano_3_mean",
        corpus_fraction=0.5,
        prior=dataclasses.replace(config.prior, partial_rate=0.2, earlier_rate=0.4, flipped_rate=0.2),
        augmentation=dataclasses.replace(config.augmentation, earlier_rate=0.4, flip_earlier=0.2),
        optimizer=dataclasses.replace(
            config.optimizer, matrix_learning_rate=4.5e-3, learning_rate=4.5e-4, warmup_steps=100
        ),
    )
