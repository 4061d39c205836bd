#!/usr/bin/env python3
"""A checkpoint that is cut while the program reads it: a sentence and exit status 1, no signal.

    TESSERA_BINARY=build/bin/tessera tests/e2e/cut_file_test.py
"""

import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ.get("TESSERA_BINARY", "build/bin/tessera")
ROWS, WIDTH = 1 << 22, 64  # 1 GiB of zeros that no disk holds


def write_sparse_bert(folder):
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": WIDTH, "num_hidden_layers": 1,
              "num_attention_heads": 1, "intermediate_size": 64, "vocab_size": ROWS, "max_position_embeddings": 8,
              "type_vocab_size": 1, "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    size = 4 * ROWS * WIDTH
    header = {"embeddings.word_embeddings.weight": {"dtype": "F32", "shape": [ROWS, WIDTH], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


class CutFile(unittest.TestCase):
    def test_is_one_sentence(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write_sparse_bert(folder)
            program = subprocess.Popen([BINARY, "inspect", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            maps = pathlib.Path(f"/proc/{program.pid}/maps")
            # Stopped as soon as the file is mapped, long before it is read to its end.
            while program.poll() is None and "model.safetensors" not in maps.read_text():
                time.sleep(0.001)
            program.send_signal(signal.SIGSTOP)
            os.truncate(folder / "model.safetensors", 4096)
            program.send_signal(signal.SIGCONT)
            _, err = program.communicate(timeout=300)
            self.assertEqual(program.returncode, 1, err)
            self.assertEqual(err.decode(), "tessera: a file of the model became shorter while it was read\n")


if __name__ == "__main__":
    unittest.main()
