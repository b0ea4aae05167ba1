"""Guest images: kernel, initramfs and root file system for each instruction set, from distribution packages.

`ensure` gives the image of an architecture and builds it when it is not there; an image is named by the hash of all
that went into it and is never changed. `seed_archive` and `boot_archive` make an initramfs for one particular node.
`obtain` does the same for a definition of either kind: of packages, or of a cloud image (`images.cloud`).
`compile_tree` compiles Python for the guests. Nothing here knows what the guests are used for.
"""

from pathlib import Path

from images.cpio import seed_archive
from images.image import Image
from images.store import ensure, ensure_all, obtain

__all__ = ["Image", "boot_archive", "compile_tree", "ensure", "ensure_all", "obtain", "seed_archive"]


def boot_archive(image: Image, seed: bytes) -> bytes:
    """The initramfs of one node: its seed (see `seed_archive`) and behind it the image's own initramfs."""
    return seed + image.initramfs.read_bytes()


def compile_tree(image: Image, sources: Path) -> bytes:
    """See `images.bytecode.compile_tree`, which is imported when it is called."""
    from images.bytecode import compile_tree as compile_now

    return compile_now(image, sources)
