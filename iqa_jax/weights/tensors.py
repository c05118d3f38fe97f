"""The content of a .safetensors file, also in the number formats that NumPy alone does not know."""

import ml_dtypes
import numpy as np

_DTYPES: dict[str, type] = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}


def tensors_of(content: bytes) -> dict[str, np.ndarray]:
    """Every tensor of a .safetensors file by its name.

    Raises:
      ValueError: the file is truncated, or a tensor has an unknown number format.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(content)
    except SafetensorError as error:
        raise ValueError(f"not a whole .safetensors file ({error})") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise ValueError(f"{name!r} is kept as {entry['dtype']}, expected one of {known}")
        tensors[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
