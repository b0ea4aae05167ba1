"""Litmus shapes with each thread's part under one mutex: only what one part after the other can give may be seen.

x and y lie in pages of their own. Two threads; what both saw is compared by the first one after each iteration.
"""

PAGE_WORDS = 512
SEEN = 1
"""The page of what each thread saw; the mutex is in page 0."""
SHAPES = {
    "SB": (("Wx", "Ry"), ("Wy", "Rx")),
    "LB": (("Rx", "Wy"), ("Ry", "Wx")),
    "MP": (("Wx", "Wy"), ("Ry", "Rx")),
    "2+2W": (("Wx", "Wy"), ("Wy", "Wx")),
    "R": (("Wx", "Wy"), ("Wy", "Rx")),
}


def member(part):
    words = part.memory.cast("Q")
    mutex, meeting = part.mutex(0), part.meeting(64, part.ranks)
    for iteration in range(part.iterations):
        for number, (name, programs) in enumerate(SHAPES.items()):
            x = (2 + 2 * number) * PAGE_WORDS + iteration
            place = {"x": x, "y": x + PAGE_WORDS}
            with mutex:
                seen = [step(words, place[at], kind, part.rank + 1) for kind, at in programs[part.rank]]
            for index, value in enumerate(seen):
                words[SEEN * PAGE_WORDS + 2 * part.rank + index] = value
            meeting.wait()
            if part.rank == 0:
                all_seen = tuple(words[SEEN * PAGE_WORDS + index] for index in range(4))
                found = (*all_seen, words[place["x"]], words[place["y"]])
                assert found in possible(programs), f"{name}: {found}, expected one of {possible(programs)}"
            meeting.wait()


def step(words, word, kind, value):
    """A load, which is told, or a store, of which nothing is."""
    if kind == "R":
        return words[word]
    words[word] = value
    return 0


def possible(programs):
    """What is seen and left when one thread's part comes after the other's."""
    outcomes = []
    for order in ((0, 1), (1, 0)):
        memory, seen = {"x": 0, "y": 0}, [0, 0, 0, 0]
        for rank in order:
            for index, (kind, at) in enumerate(programs[rank]):
                if kind == "R":
                    seen[2 * rank + index] = memory[at]
                else:
                    memory[at] = rank + 1
        outcomes.append((*seen, memory["x"], memory["y"]))
    return outcomes
