//go:build linux

package tun_test

import (
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

// While a device may not send nothing of it reaches a peer, whatever the kernel has in its sockets, sends again, or answers by itself; and
// what was under way goes on afterwards.
func TestMaySend(t *testing.T) {
	hosts.Need(t)
	var may atomic.Bool
	may.Store(true)
	lab := hosts.New(t, func(o conformance.Options) (datapath.Datapath, error) {
		x := tun.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface}
		if o.Host == 1 {
			x.MaySend, x.Apart = may.Load, true
		}
		d, err := tun.Open(x)
		if err != nil {
			return nil, err
		}
		return d, nil
	})
	type end struct {
		datapath.Datapath
		as datapath.Peer
		at netip.Addr
	}
	open := func(host int, address string) end {
		t.Helper()
		k, at := key.NewPrivate(), netip.MustParseAddr(address)
		d, err := lab.Open(conformance.Options{Host: host, PrivateKey: k, Interface: datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(at, 32)}, MTU: 1420}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return end{d, datapath.Peer{PublicKey: k.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(at, 32)},
			Endpoint: netip.AddrPortFrom(lab.Outer(host, false), d.ListenPort())}, at}
	}
	gateway, peer := open(1, "10.9.0.1"), open(2, "10.9.0.2")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(gateway.UpdatePeers([]datapath.Peer{peer.as}, nil))
	must(peer.UpdatePeers([]datapath.Peer{gateway.as}, nil))
	must(peer.Datapath.(datapath.Gate).OpenPorts(datapath.Ports{TCP: []uint16{80}}))
	peer.HandleTCP(func(q datapath.TCPRequest) {
		if c, err := q.Accept(); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
	c, err := gateway.DialTCP(t.Context(), netip.AddrPortFrom(peer.at, 80))
	must(err)
	must(c.SetDeadline(time.Now().Add(30 * time.Second)))
	say := func(words string) {
		t.Helper()
		_, err := c.Write([]byte(words))
		must(err)
	}
	hear := func(words string) {
		t.Helper()
		got := make([]byte, len(words))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != words {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	received := func() uint64 {
		t.Helper()
		p, err := peer.Peers()
		must(err)
		return p[0].RxBytes
	}
	say("one")
	hear("one")
	time.Sleep(300 * time.Millisecond) // the last acknowledgement

	may.Store(false)
	before := received()
	say("two")
	ping, err := peer.DialUDP(t.Context(), netip.AddrPortFrom(gateway.at, 53)) // which the kernel would refuse
	must(err)
	defer ping.Close()
	for range 10 {
		_, _ = ping.Write([]byte("x"))
		time.Sleep(100 * time.Millisecond) // the kernel sends what is not acknowledged again meanwhile
	}
	if after := received(); after != before {
		t.Errorf("%d bytes came from who may not send", after-before)
	}
	may.Store(true)
	hear("two")
}
