"""Draw and train on a CUDA device with the bits of the compiled engine: kernels.cu says the same in CUDA C++.

CuPy is imported, and needed, only if a device is asked for.
"""
