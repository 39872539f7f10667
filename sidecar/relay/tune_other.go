//go:build !linux

package relay

// tuneLocal has nothing to tune where the congestion control is not ours to choose.
func tuneLocal(int) {}
