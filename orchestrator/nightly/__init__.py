"""`testbed nightly`: a set of experiments, run within a budget of time, compared with their baselines, and summed up.

`night` is what one night was and is kept as, `schedule` what runs in which order, `carry_out` the night itself,
`compared` its comparison with baselines, `summary` and `outputs` what it is told by, `retention` what is kept of old
ones, `templates` what starts it every night.
"""
