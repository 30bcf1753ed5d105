"""`nano-4`: `nano-3` with six decoder layers instead of four, and two rough experts more.

    optformer train nano_4 --workdir DIR --set corpus=real.jsonl.gz

It starts from `nano-3`; the two new layers and the two new experts change its outputs little at first.  The synthetic
prior has more bowls, valleys, ridges and ripples than for `nano-3`, and earlier studies and learning curves are in
fewer of the studies.

Data: the synthetic prior and a corpus as that of `nano_3_curves`, half and half.
Hardware: two CPU cores.
Time: 90 minutes.
Score: not measured yet.
"""

import dataclasses

from optformer.configs import nano_3
from optformer.train.config import TrainConfig

SMOOTH = {"gaussian_process": 0.30, "bowl": 0.10, "valley": 0.08, "ridge": 0.06, "ripples": 0.08}
"""Weights of these families; the others keep theirs."""


def get_config() -> TrainConfig:
    """`nano_3`, deeper, with more experts and more smooth functions."""
    config = nano_3.get_config()
    families = tuple((name, SMOOTH.get(name, weight)) for name, weight in config.prior.families)
    return dataclasses.replace(
        config,
        init="nano-3",
        model=dataclasses.replace(config.model, decoder_layers=6, experts=6),
        prior=dataclasses.replace(config.prior, families=families, partial_rate=0.15, earlier_rate=0.3),
        augmentation=dataclasses.replace(config.augmentation, partial_rate=0.3, earlier_rate=0.3),
        optimizer=dataclasses.replace(
            config.optimizer, matrix_learning_rate=6e-3, learning_rate=6e-4, experts_rate=3.0, warmup_steps=200
        ),
        steps=12_000,
    )
