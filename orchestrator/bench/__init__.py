"""`testbed bench`: what page faults, rings and booting cost on this machine, measured in one run on the same guests.

A figure alone says more about the host than about us. So each stands beside what it is to be compared with, measured in
the same minute: our daemon beside a fault handler in C that asks nobody, rings beside TCP over a virtual Ethernet.
"""
