"""C++ called through ctypes, each with its pure-torch twin: 4-bit products and the whole decode step of a GPT.

`build` compiles and loads the library at first use, `linear` is one layer, `decoder` the whole step; docs/kernels.md
explains them.
"""
