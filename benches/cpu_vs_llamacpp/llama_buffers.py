"""A way around a fault of llama.cpp on CPUs with AMX.

There it lays every quantised matrix out for AMX that would fit. The products of MLA by head then
find no kernel, and it aborts ("cur_backend_id != -1"; seen in 0.5.0). Those matrices, a few per
cent of the weights, are kept in a plain buffer here.
"""

import ctypes

import llama_cpp

# The halves of kv_b_proj
BY_HEAD = b"attn_[kv]_b"


class Override(ctypes.Structure):
    """llama_model_tensor_buft_override"""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


# A buffer of nothing: its type is what is wanted, a plain one that is not the default.
ALIGNMENT = 64
NOTHING = ctypes.create_string_buffer(2 * ALIGNMENT)
# llama.cpp reads it while it loads; the last one ends the list.
OVERRIDES = (Override * 2)()


def plain_buffer_type() -> int:
    library = llama_cpp.llama_cpp._lib
    wrap, type_of = library.ggml_backend_cpu_buffer_from_ptr, library.ggml_backend_buffer_get_type
    wrap.argtypes, wrap.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_void_p
    type_of.argtypes, type_of.restype = [ctypes.c_void_p], ctypes.c_void_p
    aligned = -(-ctypes.addressof(NOTHING) // ALIGNMENT) * ALIGNMENT
    return type_of(wrap(aligned, ALIGNMENT))


def keep_plain(params: llama_cpp.llama_model_params) -> None:
    """Sets it in the parameters where the CPU has AMX."""
    if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
        OVERRIDES[0] = Override(BY_HEAD, plain_buffer_type())
        params.tensor_buft_overrides = ctypes.addressof(OVERRIDES)
