//go:build !linux

package relay

// tuneLocal has nothing to tune where the congestion control is not ours to choose.
func tuneLocal(int) {}

// closedTCP is not known where there is no TCP_INFO: the error of the socket has to do.
func closedTCP(int) bool { return false }

// unread is not asked.
func unread(int) int { return 0 }

// writable is not asked.
func writable(uintptr) bool { return true }
