"""The engines beside Tessera: each a class with `version` and start(case), None where it does not do such a case; what
it gives has sample(), one run as a list of seconds, and result(), what the last run gave."""

import importlib

NAMES = {
    "onnxruntime": ("onnx_engines", "OnnxRuntime"),
    "onnxruntime-fused": ("onnx_engines", "OnnxRuntimeFused"),
    "openvino": ("onnx_engines", "OpenVino"),
    "torch": ("torch_engine", "Engine"),
    "ctranslate2": ("ctranslate2_engine", "Engine"),
    "llama.cpp": ("llama_cpp_engine", "Engine"),
}


def engine_class(name):
    module, attribute = NAMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
