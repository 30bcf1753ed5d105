"""The `nano` model on the synthetic prior: a general model from a laptop, in an hour.

    optformer train nano_cpu --workdir DIR

You may end the run at any time (Ctrl-C, or `--max-minutes N`); the same command resumes it.  With
`--set corpus=corpus.jsonl --set corpus_fraction=0.3`, 30 % of each batch come from your own logs.

Hardware: two CPU cores.
Time: 55 minutes for 11,000 steps on two cores that other work shared (0.3 s a step).
Score: `function_density` 2.27 nats above uniform on validation studies of the prior.  It is the first stage of
`nano-1`, whose model card says how that run differed from today's recipe; `nano_1_long` starts here.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 48 trials and 10 parameters."""
    return TrainConfig(
        model=ModelConfig.nano(),
        # Names and ranges that do not fit are dropped; half of the studies have none anyway.
        shape=BatchShape(trials=48, slots=10, text=64, policy_trials=8),
        prior_steps=2,
        batch_size=32,
        products="auto",
        # Parts of eight studies stay in a core's cache: a step takes three quarters of the time of one part.
        accumulate=4,
        steps=11_000,
        optimizer=OptimizerConfig(warmup_steps=300),
        ema_decay=0.999,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
