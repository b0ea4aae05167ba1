"""The page-coherency protocol: messages, effects, and engines that are pure state machines, without I/O of any kind."""
