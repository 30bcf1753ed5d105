"""Fourth stage of `nano-1`: only its policy, on trials of the seven teachers of the 2022 paper.

    optformer corpus generate --out six.jsonl.gz --studies 2700 --infeasible-rate 0.2 --noise-rate 0.3 --seed 9 \\
        --teachers grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    cat six.jsonl.gz $(yes data/recorded/gp_ucb_train.jsonl.gz | head -3) > policy.jsonl.gz
    optformer train nano_1_policy --workdir DIR --set init=NANO_1_TEACHERS --set corpus=policy.jsonl.gz

NANO_1_TEACHERS is the working directory of `nano_1_teachers`, where this stage starts.  The slot decoder
sees the predecessor of each trial (`policy_succession`), and only it is trained: all other weights, and so all
predictions of objectives, stay exactly the same.  Only that part is differentiated, which leaves time for 32 trials of
each study instead of 8.  `optformer.train.replay` runs all stages.

Data: the synthetic prior, and the corpus above (75 %).
Hardware: two CPU cores.
Time: 57 minutes for 4,000 steps.
Score: policy loss of a parameter on held-out studies of the corpus 1.519 before, 1.449 after; on the prior 3.933 and
3.899; density of objectives 2.626 and 3.182, before and after.
"""

import dataclasses

from optformer.data.corpus import Augmentation
from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 100 trials and 16 parameters, three quarters of them from a corpus."""
    return TrainConfig(
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True, policy_succession=True),
        init="nano_1_teachers",
        train_only=("policy",),
        prior=PriorConfig(infeasible_rate=0.2, order_free_rate=0.0, prefix_power=4.0),
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=32),
        corpus_fraction=0.75,
        augmentation=Augmentation(drop_algorithm=0.3, drop_names=0.5, order_free_rate=0.0, prefix_power=4.0),
        prior_steps=4,
        batch_size=32,
        accumulate=4,
        steps=4_000,
        optimizer=OptimizerConfig(matrix_learning_rate=1e-2, learning_rate=1e-3, warmup_steps=200, weight_decay=0.02),
        ema_decay=0.998,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
