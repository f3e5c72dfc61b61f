"""The host: one process a machine that lends its capacity to the control plane.

It advertises pools, starts and stops sandbox daemons when it is told to, and watches them. It knows
nothing of tasks, runs or agents: those are between the control plane and the daemons. Whatever it
started outlives it, and its next start finds it again.
"""
