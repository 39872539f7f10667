//go:build linux

package oslink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flushLook is how often Flush looks: the kernel tells nobody of the end of a connection that its owner has closed.
const flushLook = 10 * time.Millisecond

// Flush waits until peers have acknowledged all that was written to connections whose direction is closed by now; see datapath.Datapath.
// errors.ErrUnsupported where the kernel does not list its connections (inet_diag).
func (l *Link) Flush(ctx context.Context) error {
	for {
		n, err := l.unheard()
		if err != nil {
			return fmt.Errorf("flush: list connections: %w", err)
		}
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("flush: %d connections have more to send: %w", n, ctx.Err())
		case <-time.After(flushLook):
		}
	}
}

// openDiag is nil where the kernel does not list its connections.
func openDiag(log *slog.Logger) *netlink.Handle {
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		log.Debug("cannot list connections", "error", err.Error())
		return nil
	}
	return h
}

// unheard is how many connections of our addresses there are whose end the peer has not acknowledged.
func (l *Link) unheard() (n int, err error) {
	if l.diag == nil {
		return 0, errors.ErrUnsupported
	}
	own := *l.own.Load()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		all, err := l.diag.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return 0, err
		}
		for _, s := range all {
			from, _ := netip.AddrFromSlice(s.ID.Source)
			if awaitsAck(s.State) && slices.Contains(own, from.Unmap()) {
				n++
			}
		}
	}
	return n, nil
}

func awaitsAck(state uint8) bool {
	return state == netlink.TCP_FIN_WAIT1 || state == netlink.TCP_CLOSING || state == netlink.TCP_LAST_ACK
}
