"""Where the rules lead: fixed points and stability, in closed form, by linearisation, and on a small network.

``closed`` has the closed forms, ``flow`` trajectories and linearisations, ``measured`` the network, ``run`` all of it
as data for a report. Nothing is imported here, so that the command's settings need no torch.
"""
