package device

import (
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
)

// loopback is a conformance.Lab of one machine: a netstack brings its TCP/IP with it, so all hosts can be this one.
type loopback struct{}

func (loopback) Open(o conformance.Options) (datapath.Datapath, error) {
	d, err := Open(Options{PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (loopback) Outer(_ int, six bool) netip.Addr {
	if six {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (loopback) Do(_ int, f func()) { f() }

func TestConformance(t *testing.T) {
	conformance.Run(t, func(testing.TB) conformance.Lab { return loopback{} })
}
