package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// keepBuffersSmall has the kernel answer "done" to every wish for another socket buffer, and do nothing. That is what a pod meets
// on a host whose net.core.rmem_max is as small as its default: the sysctl itself belongs to the whole machine, not to a
// namespace, and others use the machine. (What a pod gets there is twice the default, since the kernel doubles what is asked
// for; so this is a little harder than life.)
func keepBuffersSmall() error {
	const number, arg1, arg2 = 0, 16 + 8, 16 + 16 // offsets in seccomp_data; of an argument the lower half, on little endian
	options := []uint32{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	n := uint8(len(options))
	f := []unix.SockFilter{
		load(number), equal(unix.SYS_SETSOCKOPT, 0, n+3),
		load(arg1), equal(unix.SOL_SOCKET, 0, n+1),
		load(arg2),
	}
	for i, o := range options {
		f = append(f, equal(o, n-uint8(i), 0))
	}
	f = append(f, answer(unix.SECCOMP_RET_ALLOW), answer(unix.SECCOMP_RET_ERRNO)) // error 0 is success
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
