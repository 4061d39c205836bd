#!/usr/bin/env python3
"""Prints the vector of a text: embed_ctypes.py LIBRARY MODEL TEXT

LIBRARY is libtessera.so; nothing but Python itself is needed.
"""

import ctypes
import sys


class Tessera:
    def __init__(self, library, directory):
        self.lib = ctypes.CDLL(library)
        self.lib.tessera_error.restype = ctypes.c_char_p
        self.lib.tessera_load.restype = ctypes.c_void_p
        self.lib.tessera_load.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        self.lib.tessera_free.argtypes = [ctypes.c_void_p]
        self.lib.tessera_embedding_size.argtypes = [ctypes.c_void_p]
        self.lib.tessera_embed.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_size_t,
                                           ctypes.POINTER(ctypes.c_float)]
        self.model = self.lib.tessera_load(directory.encode(), None)
        if not self.model:
            raise RuntimeError(self.lib.tessera_error().decode())

    def embed(self, texts):
        size = self.lib.tessera_embedding_size(self.model)
        vectors = (ctypes.c_float * (size * len(texts)))()
        encoded = (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
        if self.lib.tessera_embed(self.model, encoded, len(texts), vectors) != 0:
            raise RuntimeError(self.lib.tessera_error().decode())
        return [list(vectors[i * size:(i + 1) * size]) for i in range(len(texts))]

    def close(self):
        self.lib.tessera_free(self.model)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: embed_ctypes.py LIBRARY MODEL TEXT")
    try:
        tessera = Tessera(sys.argv[1], sys.argv[2])
        for x in tessera.embed([sys.argv[3]])[0]:
            print(f"{x:g}")
        tessera.close()
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
