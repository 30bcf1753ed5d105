"""Second stage of `nano-1`: longer histories and more parameters than `nano_cpu`, at a quarter of its rates.

    optformer train nano_1_long --workdir DIR --set init=NANO_CPU

NANO_CPU is the working directory of `nano_cpu`, where this stage starts.  `optformer.train.replay` runs all stages.

Data: the synthetic prior.
Hardware: two CPU cores.
Time: 71 minutes for 14,000 steps on two cores that other work shared (0.3 s a step).
Score: `function_density` 2.49 nats above uniform on its validation studies of the prior, 2.19 before.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 64 trials and 16 parameters."""
    return TrainConfig(
        model=ModelConfig.nano(),
        init="nano_cpu",
        # Names and ranges that do not fit are dropped; half of the studies have none anyway.
        shape=BatchShape(trials=64, slots=16, text=64, policy_trials=8),
        prior_steps=2,
        batch_size=32,
        accumulate=4,
        steps=14_000,
        # A quarter of the first stage's rates, which would undo what it learned (docs/decisions/0026-second-stage.md).
        optimizer=OptimizerConfig(matrix_learning_rate=5e-3, learning_rate=5e-4, warmup_steps=200),
        ema_decay=0.999,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
