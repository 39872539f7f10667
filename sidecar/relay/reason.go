package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// Reason says why a connection, flow or datagram failed. It is the one list behind logs, stats and proxy replies.
type Reason uint8

// The reasons. None is success.
const (
	None          Reason = iota
	NoTargets            // the forward or name has no target that is ready
	Refused              // every target refused
	Timeout              // no target answered in time
	Unreachable          // no route or another network error
	NotExposed           // a peer asked for a port that is not listed
	NotAllowed           // policy says no
	UnknownName          // a proxy was asked for a name that is not carried
	Malformed            // a proxy client broke its protocol
	Limit                // a bound on connections, dials or flows was reached
	Draining             // the relay is shutting down
	ResetByLocal         // the application reset the connection
	ResetByTunnel        // the far end reset the connection
	Aborted              // the relay ended it: forward removed, policy changed, closing
	Evicted              // a UDP flow gave way to a newer one
	Bind                 // the listen address could not be bound
	Dropped              // a datagram could not be passed on
	NameNotFound         // a host's name was not found, or nobody answered for it
	numReasons
)

var reasonNames = [numReasons]string{
	"None", "NoTargets", "Refused", "Timeout", "Unreachable", "NotExposed", "NotAllowed", "UnknownName", "Malformed",
	"Limit", "Draining", "ResetByLocal", "ResetByTunnel", "Aborted", "Evicted", "Bind", "Dropped", "NameNotFound",
}

// String returns the reason as metrics and logs spell it.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return "Unknown"
}

// Reasons lists every reason but None, for exporters that want a series for each.
func Reasons() []Reason {
	all := make([]Reason, 0, numReasons-1)
	for r := None + 1; r < numReasons; r++ {
		all = append(all, r)
	}
	return all
}

// dialReason names a dial error. ctx is the listener's: when it has ended the error is ours and not the target's.
func dialReason(ctx context.Context, err error) Reason {
	var ne net.Error
	switch {
	case err == nil:
		return None
	case ctx.Err() != nil:
		return Aborted
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Timeout
	case errors.As(err, &ne) && ne.Timeout():
		return Timeout
	}
	return Unreachable
}
