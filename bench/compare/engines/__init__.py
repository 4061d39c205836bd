"""The engines beside Tessera: each a class of checkpoint, threads and precision with `version`, `weight_bytes` (of the
matrices that every token meets, as it keeps them with their scales; None where it does not tell) and start(case), None where
it does not do such a case; what that gives has sample(), one run as a list of seconds, and result(), what the last run gave."""

import importlib

NAMES = {
    "onnxruntime": ("onnx_engines", "OnnxRuntime"),
    "onnxruntime-fused": ("onnx_engines", "OnnxRuntimeFused"),
    "openvino": ("onnx_engines", "OpenVino"),
    "torch": ("torch_engine", "Engine"),
    "ctranslate2": ("ctranslate2_engine", "Engine"),
    "llama.cpp": ("llama_cpp_engine", "Engine"),
}

# Who has which precision; int8 and int4 multiply by rows of 8 bits, w8 and w4 by rows of floats. llama.cpp's files of 8 and 4
# bits stand in both, since they are what its users have: it multiplies by rows of 8 bits.
PRECISIONS = {
    "bf16": ["torch", "openvino", "llama.cpp"],
    "int8": ["torch", "onnxruntime", "onnxruntime-fused", "openvino", "ctranslate2", "llama.cpp"],
    "int4": ["onnxruntime", "onnxruntime-fused", "openvino", "llama.cpp"],
    "w8": ["torch", "onnxruntime", "onnxruntime-fused", "openvino", "llama.cpp"],
    "w4": ["torch", "onnxruntime", "onnxruntime-fused", "openvino", "llama.cpp"],
}


def engine_class(name):
    module, attribute = NAMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
