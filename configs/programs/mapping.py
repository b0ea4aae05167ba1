"""Two kernels, one address space: what one maps, unmaps, protects or moves is so for the other, too."""

PAGE = 4096


def changer(part):
    part.memory[: 3 * PAGE] = b"abc" * PAGE
    part.barrier()  # 1: the other one has it, too
    part.barrier()
    part.move(0, 2 * PAGE, 8 * PAGE)
    part.unmap(2 * PAGE, PAGE)
    part.map(0, PAGE)
    part.protect(9 * PAGE, PAGE, writable=False)
    part.barrier()  # 2
    part.barrier()
    assert part.memory[0] == 77  # stored by the other kernel, where memory was mapped anew
    part.protect(9 * PAGE, PAGE, writable=True)
    part.memory[9 * PAGE] = 78
    for refused in (
        lambda: part.map(0, PAGE),
        lambda: part.move(0, PAGE, 8 * PAGE),
        lambda: part.protect(PAGE, PAGE, writable=True),
        lambda: part.unmap(len(part.memory), PAGE),
    ):
        try:
            refused()
        except OSError as error:
            print(error)  # noqa: T201 - kept with the results
    part.barrier()  # 3


def onlooker(part):
    part.barrier()  # 1
    before = bytes(part.memory[: 3 * PAGE])
    part.barrier()
    part.barrier()  # 2
    assert bytes(part.memory[8 * PAGE : 10 * PAGE]) == before[: 2 * PAGE]
    assert bytes(part.memory[:PAGE]) == bytes(PAGE)
    part.memory[0] = 77
    part.barrier()
    part.barrier()  # 3
    assert part.memory[9 * PAGE] == 78
