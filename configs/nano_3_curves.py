"""`nano-3`, second part: learning curves in the context.

    optformer train nano_3_curves --workdir DIR --set corpus=real.jsonl.gz

It starts from `nano_3_earlier`.  In two fifths of the studies with learning curves, some trials are stopped: the model
reads intermediate reports of these and other trials, and predicts their final values.  The corpus is that of
`nano_2_real`, generated with `--curves`: trials of YAHPO's problems report at some fractions of their budget.

For `nano-3` there were 4,748 further steps of `nano_3_earlier` before it, at matrix rates from .0045 down to .0024.

Data: the synthetic prior with curves in a quarter of its studies, and the corpus (62.5 %).
Hardware: two CPU cores.
Time: 70 minutes, beside other work.
Score: regret on the real validation .77, .41, .22, .12 after 5, 10, 25 and 50 trials (`nano-2` .86, .46, .18, .11).
"""

import dataclasses

from optformer.configs import nano_3_earlier
from optformer.train.config import TrainConfig


def get_config() -> TrainConfig:
    """`nano_3_earlier` with learning curves in some of the studies."""
    config = nano_3_earlier.get_config()
    return dataclasses.replace(
        config,
        init="nano_3_earlier",
        prior=dataclasses.replace(config.prior, partial_rate=0.25),
        augmentation=dataclasses.replace(config.augmentation, partial_rate=0.4),
        optimizer=dataclasses.replace(config.optimizer, matrix_learning_rate=3.5e-3, learning_rate=3.5e-4),
        steps=11_000,
    )
