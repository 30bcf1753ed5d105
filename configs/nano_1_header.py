"""Fifth stage of `nano-1`: only its policy, on studies in which one optimizer continues another's trials.

    six=grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    rates="--infeasible-rate 0.2 --noise-rate 0.3"
    optformer corpus generate --out six.jsonl.gz --teachers $six --studies 813 $rates --seed 61
    optformer corpus generate --out hand.jsonl.gz --openings six.jsonl.gz --teachers $six --studies 1600 \\
        --trials 30-100 $rates --seed 93
    optformer corpus generate --out from.jsonl.gz --openings data/recorded/gp_ucb_train.jsonl.gz --teachers $six \\
        --studies 384 --trials 30-80 --largest-dimension 16 $rates --seed 92
    cat six.jsonl.gz hand.jsonl.gz from.jsonl.gz $(yes data/recorded/gp_ucb_train.jsonl.gz | head -6) \\
        $(yes data/recorded/gp_ucb_goes_on.jsonl.gz | head -6) > header.jsonl.gz
    optformer train nano_1_header --workdir DIR --set init=NANO_1_POLICY --set corpus=header.jsonl.gz
    optformer checkpoint average NANO_1_POLICY DIR --share 0.6 --out nano-1

This stage starts from NANO_1_POLICY, the working directory of `nano_1_policy`.  The slot decoder reads the name of the
optimizer in the header (`policy_header`); studies with openings teach it to follow the name and not the earlier trials.
All other weights stay exactly the same.  `optformer.train.replay` runs all stages.

Data: the synthetic prior, and the corpus above (75 %).
Hardware: two CPU cores.
Time: 32 minutes for 1,800 steps.
Score: policy loss of a parameter on held-out studies 2.034 before, 1.820 after, on the prior 3.899 and 3.910; density
of objectives 2.812 and 3.182, before and after.  The mean of both weights identifies optimizers more often.
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
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True, policy_succession=True, policy_header=True),
        init="nano_1_policy",
        train_only=("policy",),
        prior=PriorConfig(infeasible_rate=0.2, order_free_rate=0.0, prefix_power=4.0),
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=32),
        corpus_fraction=0.75,
        augmentation=Augmentation(drop_algorithm=0.3, drop_names=0.5, order_free_rate=0.0, prefix_power=4.0),
        prior_steps=4,
        batch_size=32,
        accumulate=4,
        steps=1_800,
        optimizer=OptimizerConfig(matrix_learning_rate=1e-2, learning_rate=1e-3, warmup_steps=100, weight_decay=0.02),
        ema_decay=0.998,
        checkpoint_every=300,
        eval_every=300,
        eval_batches=8,
    )
