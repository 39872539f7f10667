package wire

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

func TestSplitEndpointName(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".") // 253
	for _, c := range []struct {
		in, host string
		port     uint16
	}{
		{"vpn.example.com:51820", "vpn.example.com", 51820},
		{"vpn.example.com.:1", "vpn.example.com.", 1},
		{"gw:65535", "gw", 65535},
		{"3com.x1--y.a:9", "3com.x1--y.a", 9},
		{long + ".:65535", long + ".", 65535},
	} {
		host, port, err := SplitEndpointName(c.in)
		if err != nil || host != c.host || port != c.port {
			t.Errorf("%s: %q %d %v", c.in, host, port, err)
		}
		if len(c.in) > MaxEndpointName {
			t.Errorf("%s has %d bytes, more than the bound", c.in, len(c.in))
		}
	}
	for _, bad := range []string{"", ":", ":1", "a", "a:", "a:0", "a:01", "a:+1", "a:-1", "a: 1", "a:65536", "a:1:1", "A:1", ".:1", ".a:1", "a..b:1", "-a:1", "a-:1", "a.-b:1", "a_b:1",
		"192.0.2.1:1", "300.0.2.1:1", "1.2:1", "a.5:1", "[2001:db8::1]:1", "2001:db8::1:1", "a b:1", "a\n:1", "ä:1", "a%0:1", label + "a:1", "a" + long + ":1"} {
		if host, port, err := SplitEndpointName(bad); err == nil {
			t.Errorf("%q was taken for host %q, port %d", bad, host, port)
		} else if len(err.Error()) > 400 {
			t.Errorf("%q: an error of %d bytes", bad, len(err.Error()))
		}
	}
}

func TestEndpointNameOfPeer(t *testing.T) {
	config := func(p Peer) Config {
		p.PublicKey = key.Public{1}
		return Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/128")}}, Peers: []Peer{p}}
	}
	if err := config(Peer{EndpointName: "vpn.example.com:51820"}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		p     Peer
		names string
	}{
		{Peer{EndpointName: "10.0.0.1:51820"}, "DNS name"},
		{Peer{EndpointName: "vpn.example.com:1", Endpoint: netip.MustParseAddrPort("10.0.0.1:1")}, "beside"},
	} {
		if err := config(c.p).Validate(); err == nil || !strings.Contains(err.Error(), "peers[0].endpointName") || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
}
