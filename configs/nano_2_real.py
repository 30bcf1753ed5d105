"""First stage of `nano-2`: Gaussian-process experts, and real tuning.

    optformer train nano_2_real --workdir DIR --set corpus=real.jsonl.gz

It starts from `nano-1`, to which four experts are added.  Half of each batch comes from a corpus of real tuning: trials
on measured tables and on YAHPO's training data sets, logged studies, and studies of known optimizers, from which the
policy learns (`docs/generated-corpora.md`).  Some studies have no known trial: from these the model learns where to
begin.

Data: the synthetic prior with plateaus, grids and failing regions, and the corpus above (50 %).
Hardware: two CPU cores.
Time: not yet trained to its end.
Score: not yet known.
"""

import dataclasses

from optformer.data.corpus import Augmentation
from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """`nano-1` with four experts, on studies of up to 64 trials and 16 parameters."""
    return TrainConfig(
        model=dataclasses.replace(
            ModelConfig.nano(), policy_recall=True, policy_succession=True, policy_header=True, experts=4
        ),
        init="nano-1",
        prior=dataclasses.replace(PriorConfig.measured(), blind_rate=0.03),
        shape=BatchShape(trials=64, slots=16, text=160, policy_trials=4),
        corpus_fraction=0.5,
        augmentation=Augmentation(blind_rate=0.05),
        prior_steps=4,
        products="auto",
        batch_size=32,
        accumulate=4,
        steps=60_000,
        optimizer=OptimizerConfig(matrix_learning_rate=4e-3, learning_rate=4e-4, experts_rate=5.0, warmup_steps=200),
        ema_decay=0.999,
        checkpoint_every=500,
        eval_every=1000,
        eval_batches=8,
    )
