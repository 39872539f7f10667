//go:build linux

package oslink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Flush waits until peers have acknowledged all that was written to connections whose direction is closed by now; see datapath.Datapath.
// errors.ErrUnsupported where the kernel does not list its connections (inet_diag).
func (l *Link) Flush(ctx context.Context) error { return datapath.WaitHeard(ctx, l.unheard) }

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
			return 0, fmt.Errorf("list connections: %w", err)
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
