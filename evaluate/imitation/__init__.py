"""How faithfully a checkpoint's policy imitates known optimizers: `optformer evaluate imitation`.

After Chen et al. 2022, section 6.1 and appendix E.1, with figures where the paper has pictures.

| module | owns |
|---|---|
| `trajectories.py` | the problems, and the runs of the teachers and of the model in their place |
| `likelihood.py` | log-likelihoods under the right name, a wrong one and none; which name a history is taken for |
| `draws.py` | the next trial drawn many times, by the teacher and by the model |
| `nature.py` | what is peculiar to a teacher, counted in its trajectories and in the model's |
| `pages.py` | tables and pictures |
"""
