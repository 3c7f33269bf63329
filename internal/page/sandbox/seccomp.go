package sandbox

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arches are the values of seccomp_data.arch. On other architectures, Seccomp does nothing.
var arches = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// allowed are the system calls of a Go program that serves inherited sockets, whatever their arguments are. None of them opens, connects, binds, executes or traces.
var allowed = []uint32{
	// what is open
	unix.SYS_READ, unix.SYS_READV, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK,
	unix.SYS_ACCEPT4, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_PIPE2, unix.SYS_SPLICE, unix.SYS_SENDFILE,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	// the runtime: memory, threads, signals, time
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_MINCORE, unix.SYS_MREMAP, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_RESTART_SYSCALL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_GETPID, unix.SYS_GETTID,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_GETRANDOM, unix.SYS_UNAME,
}

// limited are further system calls, allowed for some values of an argument only.
func limited(pid uint32) []argument {
	return []argument{
		{call: unix.SYS_CLONE, number: 0, test: unix.BPF_JSET, values: []uint32{unix.CLONE_THREAD}},
		{call: unix.SYS_TGKILL, number: 0, test: unix.BPF_JEQ, values: []uint32{pid}},
		// Not F_SETOWN, by which the kernel sends a signal to any process of the user.
		{call: unix.SYS_FCNTL, number: 1, test: unix.BPF_JEQ, values: []uint32{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC}},
		// Not of datagrams, which could be sent to any socket that has a name.
		{call: unix.SYS_SOCKETPAIR, number: 1, test: unix.BPF_JEQ, values: []uint32{unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK}},
		// A listener whose reading end is shut down is none any more, and MSG_FASTOPEN would connect it.
		{call: unix.SYS_SHUTDOWN, number: 1, test: unix.BPF_JEQ, values: []uint32{unix.SHUT_WR}},
		{call: unix.SYS_SENDMSG, number: 2, test: unix.BPF_JSET, values: []uint32{unix.MSG_FASTOPEN}, not: true},
	}
}

// An argument is what a system call must have in one of its arguments, counted from 0: one of some values, or bits that are set; not: none of them.
type argument struct {
	call   uint32
	number uint32
	test   uint16
	values []uint32
	not    bool
}

// Offsets in struct seccomp_data: the number of the call, the architecture, and the lower half of an argument on little-endian machines.
const (
	numberAt   = 0
	archAt     = 4
	argumentAt = 16 // each has 8 bytes
)

// Seccomp has every system call fail with EPERM that is not one of the allowed or limited ones.
// The flag TSYNC needs seccomp(2), which a sandbox may forbid; prctl on all threads is the same.
func Seccomp() error {
	arch, known := arches[runtime.GOARCH]
	if !known {
		return nil
	}
	program := filter(arch, uint32(os.Getpid()))
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// filter returns the program that the kernel runs before each system call.
func filter(arch, pid uint32) (program []unix.SockFilter) {
	op := func(code uint16, k uint32, yes, no uint8) {
		program = append(program, unix.SockFilter{Code: code, K: k, Jt: yes, Jf: no})
	}
	load := func(offset uint32) { op(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
	unless := func(test uint16, k uint32, skip uint8) { op(unix.BPF_JMP|unix.BPF_K|test, k, 0, skip) }
	end := func(action uint32) { op(unix.BPF_RET|unix.BPF_K, action, 0, 0) }
	const refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

	load(archAt)
	op(unix.BPF_JMP|unix.BPF_K|unix.BPF_JEQ, arch, 1, 0)
	end(refuse) // the calls of another architecture have other numbers
	load(numberAt)
	for _, call := range allowed {
		unless(unix.BPF_JEQ, call, 1)
		end(unix.SECCOMP_RET_ALLOW)
	}
	// The load of an argument replaces the number, so the end follows.
	for _, a := range limited(pid) {
		fits, other := uint32(unix.SECCOMP_RET_ALLOW), refuse
		if a.not {
			fits, other = other, fits
		}
		unless(unix.BPF_JEQ, a.call, uint8(2+2*len(a.values)))
		load(argumentAt + 8*a.number)
		for _, value := range a.values {
			unless(a.test, value, 1)
			end(fits)
		}
		end(other)
	}
	end(refuse)
	return program
}
