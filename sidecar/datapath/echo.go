package datapath

import (
	"context"
	"net/netip"
)

// Echoer is a Datapath that can ask a peer for an ICMP echo.
type Echoer interface {
	// Echo sends one request in an inner packet of size bytes, IP header included and at most the MTU, and returns nil when it is
	// answered. When nobody answers the error is that of ctx; any other says why the request could not be sent.
	Echo(ctx context.Context, to netip.Addr, size int) error
}

// Sizes in bytes of the headers of an echo request, IP and ICMP together: no request is smaller.
const (
	EchoHeaders4 = 20 + 8
	EchoHeaders6 = 40 + 8
)
