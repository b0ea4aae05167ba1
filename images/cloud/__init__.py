"""The second source of images: a distribution's cloud image, a qcow2 file taken as it is and checked by its digest.

A definition of this kind says `kind: cloud-image` and, for each architecture, where the file is and what its SHA-256 or
SHA-512 must be. The file is fetched once and never written to. Sources of this folder are not part of the keys of
built images.
"""
