package relay

import "golang.org/x/sys/unix"

// tuneLocal keeps model-based congestion control off loopback: where bbr is the host's default it paces a path that has no
// bottleneck, at a quarter of the speed. Best effort; accepted connections inherit it from their listener.
func tuneLocal(fd int) {
	for _, name := range []string{"cubic", "reno"} {
		if unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name) == nil {
			return
		}
	}
}

// closedTCP says that the connection is in the state CLOSED.
func closedTCP(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE
}

// unread is how many bytes wait to be read; zero: none, or it is not known.
func unread(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ) // what is wrong, a read will say
	return n
}

// writable says whether some bytes can be written, or a write would say what is wrong.
func writable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return n > 0 || err != nil
}
