package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// limits are the sysctls whose values a wish for a buffer is cut down to, by the socket option that is wished.
var limits = map[int]string{
	unix.SO_RCVBUF: "/proc/sys/net/core/rmem_default",
	unix.SO_SNDBUF: "/proc/sys/net/core/wmem_default",
}

// answering is the argument by which this program becomes the one that answers.
const answering = "-answer"

// limitBuffers has this thread, and what it becomes, meet what a pod meets on a host whose net.core.rmem_max and wmem_max are as
// small as their defaults: who wishes for a larger socket buffer gets that, which the kernel doubles, and who wishes to have it by privilege is
// refused. The sysctls themselves belong to the whole machine, not to a namespace, and others use the machine. So the kernel asks another
// process about each wish, which fulfils it on the same socket as far as it may (seccomp_unotify(2)). It ends with the last that asks.
func limitBuffers() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "listener")
	defer theirs.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self, answering)
	c.ExtraFiles, c.Stderr = []*os.File{theirs}, os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	listener, err := filter()
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	defer unix.Close(listener)
	return unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(listener), nil, 0)
}

// filter has the kernel ask the returned listener about socket buffers, and refuse privileged ones.
func filter() (listener int, err error) {
	const number, arg1, arg2 = 0, 16 + 8, 16 + 16 // offsets in seccomp_data; of an argument the lower half, on little endian
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	f := []unix.SockFilter{
		load(number), equal(unix.SYS_SETSOCKOPT, 0, 8),
		load(arg1), equal(unix.SOL_SOCKET, 0, 6),
		load(arg2),
		equal(unix.SO_RCVBUF, 5, 0), equal(unix.SO_SNDBUF, 4, 0),
		equal(unix.SO_RCVBUFFORCE, 1, 0), equal(unix.SO_SNDBUFFORCE, 0, 1),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
		answer(unix.SECCOMP_RET_ALLOW),
		answer(unix.SECCOMP_RET_USER_NOTIF),
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// notification is struct seccomp_notif, and verdict struct seccomp_notif_resp.
type (
	notification struct {
		id      uint64
		pid     uint32
		flags   uint32
		number  int32
		arch    uint32
		pointer uint64
		args    [6]uint64
	}
	verdict struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// answer fulfils the wishes of the process that has started this one, and of those that it starts.
func answer() error {
	listener, err := receive(3)
	if err != nil {
		return fmt.Errorf("receive the listener: %w", err)
	}
	for {
		events := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		switch _, err := unix.Poll(events, -1); {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case events[0].Revents&unix.POLLIN == 0:
			return nil // nobody is left that could ask
		}
		var n notification
		if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // who asked is gone
		}
		v := verdict{id: n.id}
		if err := fulfil(listener, &n); err != nil {
			fmt.Fprintln(os.Stderr, "placed: limit a socket buffer:", err)
			v.errno = -int32(unix.ENOBUFS)
		}
		_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&v))
	}
}

// receive takes a descriptor from a socket.
func receive(socket int) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return 0, err
	}
	if len(messages) != 1 {
		return 0, fmt.Errorf("%d control messages", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

// fulfil gives the socket that is asked about the largest buffer of a kind. Nobody wishes for less than the default.
func fulfil(listener int, n *notification) error {
	option := int(uint32(n.args[2]))
	size, err := number(limits[option])
	if err != nil {
		return err
	}
	process, err := processOf(n.pid)
	if err != nil {
		return err
	}
	asking, err := unix.PidfdOpen(process, 0)
	if err != nil {
		return fmt.Errorf("open who asks: %w", err)
	}
	defer unix.Close(asking)
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)); err != nil {
		return fmt.Errorf("who asked is gone: %w", err)
	}
	fd, err := unix.PidfdGetfd(asking, int(int32(n.args[0])), 0)
	if err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size)
}

func number(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(bytes.TrimSpace(b)))
}

// processOf is the process of a thread.
func processOf(thread uint32) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strconv.Atoi(strings.TrimSpace(id))
		}
	}
	return 0, fmt.Errorf("thread %d has no process", thread)
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
