"""The local session: a control plane and a host for one user on one machine, under one supervisor.

`layout` says where its files are, `record` what runs, `processes` which processes are really there,
`setup` writes the configuration, `supervisor` keeps the two children alive, `up` and `down` start and
stop it all. The children are separate programs, started by name: nothing of server or host is imported.
"""
