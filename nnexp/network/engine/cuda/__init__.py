"""Train on a CUDA device, with the bits of the compiled engine: kernels.cu says the same in CUDA C++.

Nothing here is imported, and CuPy is not needed, unless a device is asked for.
"""
