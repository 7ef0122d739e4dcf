"""The system calls that a program may make, as a seccomp filter compiled by libseccomp.

Everything that is not named here is refused with EPERM. A program can compute, have threads, read
and write its own files and pipes. It cannot start a process or another program, send a signal,
open a socket that leaves the machine, map memory that no limit counts, or change another process.
"""

import ctypes
import ctypes.util
import errno
import functools
import os
import resource
import socket

from experiments.sandbox.protocol import UnavailableError

_ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile
    copy_file_range open openat openat2 creat close close_range stat fstat lstat newfstatat
    statx access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd chdir fchdir
    flock dup dup2 dup3 pipe pipe2 unlink unlinkat mkdir mkdirat rmdir rename renameat
    renameat2 link linkat symlink symlinkat truncate ftruncate fallocate fadvise64 fsync fdatasync
    chmod fchmod fchmodat utime utimes utimensat futimesat umask statfs fstatfs
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
    eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime
    mmap munmap mremap mprotect brk madvise msync membarrier
    futex set_robust_list get_robust_list rseq set_tid_address
    gettid getpid getppid getpgid getpgrp getsid getuid geteuid getgid getegid getresuid getresgid
    getgroups capget sched_yield sched_getaffinity sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min getpriority getcpu
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
    getrlimit alarm setitimer getitimer pause
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack
    arch_prctl uname sysinfo getrandom exit exit_group restart_syscall wait4 waitid
    recvfrom recvmsg sendto sendmsg getsockopt shutdown getsockname
""".split()  # noqa: SIM905  one word a line is longer to read
# Refused as if the kernel did not know them, so that the C library takes the older call instead.
_UNKNOWN = ["clone3"]
# Not F_SETOWN and F_SETSIG, nor their ioctls: by those the kernel sends signals for a program.
_FCNTL = [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1024, 1030, 1031, 1032, 1034]
_IOCTL = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]  # is it a terminal, FIONREAD, FIONBIO, …
_CLONE_THREAD = 0x00010000
_SOCKET_TYPE = 0xF
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NOT_EQUAL, _EQUAL, _MASKED_EQUAL = 1, 4, 7


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


@functools.cache
def compiled_filter() -> bytes:
    """Compiles the filter for this machine.

    Returns:
      An array of the kernel's `struct sock_filter`, 8 bytes each.

    Raises:
      UnavailableError: if libseccomp is missing.
    """
    name = ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise UnavailableError(
            f"the sandbox needs libseccomp (Debian: apt-get install libseccomp2): {error}"
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    context = library.seccomp_init(_ERRNO | errno.EPERM)
    try:

        def add(action: int, call: str, *comparisons: _Comparison) -> None:
            number = library.seccomp_syscall_resolve_name(call.encode())
            if number < 0:  # not on this architecture, or newer than the library
                return
            array = (_Comparison * len(comparisons))(*comparisons)
            status = library.seccomp_rule_add_array(
                context, action, number, len(comparisons), array
            )
            if status:
                raise OSError(-status, f"seccomp rule for {call}")

        for call in _ALLOWED:
            add(_ALLOW, call)
        for call in _UNKNOWN:
            add(_ERRNO | errno.ENOSYS, call)
        add(_ALLOW, "clone", _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD))
        for command in _FCNTL:
            add(_ALLOW, "fcntl", _Comparison(1, _EQUAL, command, 0))
        for command in _IOCTL:
            add(_ALLOW, "ioctl", _Comparison(1, _EQUAL, command, 0))
        # Pairs of streams alone: they are for good connected to each other.
        stream = _Comparison(1, _MASKED_EQUAL, _SOCKET_TYPE, socket.SOCK_STREAM)
        add(_ALLOW, "socketpair", _Comparison(0, _EQUAL, socket.AF_UNIX, 0), stream)
        # Its own limits; but by lowering that of processor time it could kill itself, as only the
        # machine should.
        own = _Comparison(0, _EQUAL, 0, 0)
        add(_ALLOW, "prlimit64", own, _Comparison(1, _NOT_EQUAL, resource.RLIMIT_CPU, 0))
        add(_ALLOW, "prlimit64", own, _Comparison(2, _EQUAL, 0, 0))
        file = os.memfd_create("filter")
        try:
            status = library.seccomp_export_bpf(context, file)
            if status:
                raise OSError(-status, "seccomp_export_bpf")
            return os.pread(file, 1 << 20, 0)
        finally:
            os.close(file)
    finally:
        library.seccomp_release(context)
