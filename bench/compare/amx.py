"""Intel's AMX, which a process must ask the system for: refused to this process and all it starts, or asked about.

Engines choose their kernels by the answer. So a machine that has AMX runs the kernels of one that has not.
"""

import ctypes
import errno
import pathlib

SYS_ARCH_PRCTL, ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM = 158, 0x1022, 0x1023
XTILEDATA = 18
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
AUDIT_ARCH_X86_64 = 0xC000003E
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # words of classic BPF
ALLOW, FAIL = 0x7FFF0000, 0x00050000
# Offsets in seccomp_data: the call's number, the architecture, the low half of its first argument.
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8),
                ("value", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


def libc():
    return ctypes.CDLL(None, use_errno=True)


def refuse():
    """Cannot be taken back, and holds for threads and processes that are started from here on."""
    filter_ = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_IF_EQUAL, 0, 5, AUDIT_ARCH_X86_64),
               (LOAD, 0, 0, NUMBER), (JUMP_IF_EQUAL, 0, 3, SYS_ARCH_PRCTL),
               (LOAD, 0, 0, ARGUMENT), (JUMP_IF_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
               (RETURN, 0, 0, FAIL | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    program = Program(len(filter_), (Instruction * len(filter_))(*filter_))
    if libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc().prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system takes no seccomp filter, so AMX cannot be refused")
    if is_present() and request():
        raise OSError(errno.EPERM, "AMX is granted in spite of the filter that refuses it")


def request():
    """Asks for AMX: whether this process may use it."""
    return libc().syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0


def is_granted():
    """Whether this process has asked and may use it; without that the instructions fault."""
    permitted = ctypes.c_uint64()
    failed = libc().syscall(SYS_ARCH_PRCTL, ARCH_GET_XCOMP_PERM, ctypes.byref(permitted))
    return not failed and bool(permitted.value >> XTILEDATA & 1)


def cpu_flags():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


def is_present():
    return "amx_tile" in cpu_flags()


def instruction_sets(is_refused):
    """In words, for a report."""
    flags = cpu_flags()
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "SSE")
    extras = [name for flag, name in (("avx512_vnni", "VNNI"), ("avx_vnni", "AVX-VNNI"), ("avx512_bf16", "BF16"),
                                      ("avx512_fp16", "FP16")) if flag in flags]
    words = widest + (f" with {', '.join(extras)}" if extras else "")
    if not is_present():
        return f"{words}; the CPU has no AMX"
    if is_refused:
        return f"{words}; the CPU has AMX, which was refused to every engine (--no-amx)"
    return f"{words}; AMX was there for every engine"
