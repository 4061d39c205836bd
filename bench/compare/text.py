"""Sequences of a text for a trained model, of whose activations random ids say nothing."""

import sys

from common import call


class Windows:
    """Of any lengths, cut from the text as the model's tokenizer reads it, with the special tokens around each."""

    def __init__(self, program, directory, path):
        def ids_of(*arguments):
            lines = call(program, "tokenize", directory, *arguments).split()
            return [int(one) for line in lines for one in line.split(",")]

        self.path = path
        self.ids = ids_of("--file", path, "--format", "lines", "--no-special")
        around, inside = ids_of("a"), ids_of("a", "--no-special")
        begin = around.index(inside[0])
        self.before, self.after = around[:begin], around[begin + len(inside):]

    def cut(self, lengths, first):
        own = [n - len(self.before) - len(self.after) for n in lengths]
        if first < 0 or first + sum(own) > len(self.ids):
            sys.exit(f"{self.path}: expected a text of at least {2 * sum(own)} tokens, found {len(self.ids)}")
        windows = []
        for n in own:
            windows.append(self.before + self.ids[first:first + n] + self.after)
            first += n
        return windows

    def front(self, lengths):
        return self.cut(lengths, 0)

    def back(self, lengths):
        """From the other half, for calibration."""
        return self.cut(lengths, len(self.ids) // 2)
