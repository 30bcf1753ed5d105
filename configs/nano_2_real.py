"""`nano-2`: Gaussian-process experts, and real tuning.

    optformer train nano_2_real --workdir DIR --set corpus=real.jsonl.gz

It starts from `nano-1`, to which four experts are added.  Most of each batch comes from a corpus of four families, each
drawn in proportion to the square root of its number of problems: trials on measured tables and on YAHPO's training data
sets, logged studies, and studies of known optimizers on BBOB's training functions, which keep the policy able to
imitate them.  Some studies have no known trial: from these the model learns where to begin.

The corpus is that of "Histories of real tasks" in `docs/generated-corpora.md`, with four more files:

    six=grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    rates="--infeasible-rate 0.2 --noise-rate 0.3"
    optformer corpus generate --out sklearn.jsonl.gz --problems tables --tables data/recorded/tables \\
        --teachers random_order,local_moves,good_last --disguise-rate 0.4 --infeasible-rate 0.1 \\
        --largest-dimension 16 --trials 12-80 --studies 6000 --seed 3
    optformer corpus generate --out six.jsonl.gz --teachers $six --studies 813 $rates --seed 61
    optformer corpus generate --out hand.jsonl.gz --openings six.jsonl.gz --teachers $six --studies 800 \\
        --trials 30-100 $rates --seed 93
    gp="data/recorded/gp_ucb_train.jsonl.gz data/recorded/gp_ucb_goes_on.jsonl.gz"
    cat orders.jsonl.gz taught.jsonl.gz logged.jsonl.gz sklearn.jsonl.gz six.jsonl.gz hand.jsonl.gz \\
        $gp $gp $gp $gp > real.jsonl.gz

Data: the synthetic prior with plateaus, grids and failing regions, and the corpus above (62.5 %).
Hardware: two CPU cores.
Time: 12,814 steps in two hours, beside other work.  `nano-2` was trained in three parts of these steps, the last one on
a newly generated corpus, and is the mean of the weights after the second and the third part.
Score: regret on the real validation .86, .45, .18, .11 after 5, 10, 25 and 50 trials (`nano-1` 1.23, .81, .38, .21).
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
        corpus_fraction=0.625,
        augmentation=Augmentation(blind_rate=0.05),
        prior_steps=4,
        products="auto",
        batch_size=32,
        accumulate=4,
        steps=13_000,
        optimizer=OptimizerConfig(
            matrix_learning_rate=6e-3, learning_rate=6e-4, experts_rate=5.0, decay="linear", warmup_steps=200
        ),
        ema_decay=0.999,
        checkpoint_every=500,
        eval_every=1000,
        eval_batches=8,
    )
