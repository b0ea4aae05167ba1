"""Stage `sim`: the production engines under a seeded world with virtual time. No processes, no machines, no clock.

`world` is the discrete-event simulator, `memory` what every kernel's memory holds and what must be true of it,
`setting` what is simulated, `conditions` the delays and faults it is put under, `series` many seeds and points of one
experiment, `growth` the cost of more kernels. The same seed and the same arguments give the same events, to the byte.
"""
