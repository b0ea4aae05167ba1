"""The coherency daemon: page faults and messages in, effects of the engine out."""
