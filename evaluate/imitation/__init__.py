"""How faithfully a checkpoint's policy imitates known optimizers: `optformer evaluate imitation`.

Follows Chen et al. 2022, section 6.1 and appendix E.1, with numbers where the paper has pictures.

| module | content |
|---|---|
| `trajectories.py` | the problems, and the runs of the teachers and of the model that imitates them |
| `likelihood.py` | log-likelihoods under the right name, a wrong one and none; the most likely name of a history |
| `draws.py` | samples of the next trial, by the teacher and by the model |
| `nature.py` | statistics that characterize a teacher, of its trajectories and of the model's |
| `pages.py` | tables and pictures |
"""
