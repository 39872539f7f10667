package doctor

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// end is a real device: 10.77.0.2 is web's, 10.77.0.3 the client's.
type end struct {
	*device.Device
	private key.Private
	own     netip.Prefix
}

func open(t *testing.T, n byte) *end {
	t.Helper()
	e := &end{private: key.NewPrivate(), own: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, n}), 32)}
	var err error
	e.Device, err = device.Open(device.Options{PrivateKey: e.private, Interface: datapath.Interface{Addresses: []netip.Prefix{e.own}, MTU: 1420}})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func (e *end) at() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.ListenPort())
}

// knows gives e a peer: another end, as change makes it.
func (e *end) knows(t *testing.T, other *end, change func(*datapath.Peer)) {
	t.Helper()
	p := datapath.Peer{PublicKey: other.private.Public(), Endpoint: other.at(), AllowedIPs: []netip.Prefix{other.own}}
	if change != nil {
		change(&p)
	}
	must(t, e.UpdatePeers([]datapath.Peer{p}, nil))
}

// shown is what the end's sidecar shows.
func (e *end) shown(t *testing.T) *wire.Device {
	t.Helper()
	peers, err := e.Peers()
	must(t, err)
	d := &wire.Device{PublicKey: e.private.Public(), Time: time.Now(), Up: true}
	for _, s := range peers {
		d.Peers = append(d.Peers, wire.DevicePeer{PublicKey: s.PublicKey, Endpoint: s.Endpoint, AllowedIPs: s.AllowedIPs, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes})
	}
	return d
}

func (e *end) says(t *testing.T) *wire.Diagnosis {
	t.Helper()
	return &wire.Diagnosis{Time: time.Now(), PublicKey: e.private.Public(), Addresses: []netip.Prefix{e.own}, MTU: 1420, Up: true, Dropped: e.Drops()}
}

// counters are what near has of the peer that it takes for the far end.
func counters(t *testing.T, near *end) (key.Public, netip.AddrPort, wire.PeerCounters) {
	t.Helper()
	d := near.shown(t)
	if len(d.Peers) != 1 {
		t.Fatalf("%+v", d)
	}
	p := d.Peers[0]
	return p.PublicKey, p.Endpoint, wire.PeerCounters{LastHandshake: p.LastHandshake, RxBytes: p.RxBytes, TxBytes: p.TxBytes}
}

// Faults between two real devices, as sidecars would tell of them, by the findings that name them.
func TestFaultsOfDevices(t *testing.T) {
	t.Parallel()
	for want, plant := range map[string]func(t *testing.T, near, far *end){
		"":                 func(t *testing.T, near, far *end) { near.knows(t, far, nil); far.knows(t, near, nil) },
		"PeerUnknownThere": func(t *testing.T, near, far *end) { near.knows(t, far, nil); far.knows(t, open(t, 3), nil) },
		"KeyMismatch": func(t *testing.T, near, far *end) {
			near.knows(t, far, func(p *datapath.Peer) { p.PublicKey = key.NewPrivate().Public() })
			far.knows(t, near, nil)
		},
		"AllowedIPsMissing": func(t *testing.T, near, far *end) {
			near.knows(t, far, nil)
			far.knows(t, near, func(p *datapath.Peer) { p.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.77.0.9/32")} })
		},
		"EndpointMoved": func(t *testing.T, near, far *end) {
			near.knows(t, far, func(p *datapath.Peer) { p.Endpoint = open(t, 4).at() })
			far.knows(t, near, nil)
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			near, far := open(t, 3), open(t, 2)
			at := far.at()
			plant(t, near, far)
			k, _, before := counters(t, near)
			target := wire.DiagnosedTarget{Address: far.own.Addr(), PublicKey: k, Before: before, Echoes: []wire.Echo{{Bytes: 100}}}
			was, said := far.shown(t), far.says(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			target.Echoes[0].Answered = near.Echo(ctx, far.own.Addr(), 100) == nil
			_, target.Endpoint, target.After = counters(t, near)
			p := &Path{Namespace: "acme", From: "client", To: "web", Near: near.says(t)}
			p.Near.To = &wire.Destination{Kind: wire.ToService, Carried: true, Targets: []wire.DiagnosedTarget{target}}
			p.Far = []End{{Pod: "web", Addresses: []netip.Addr{far.own.Addr()}, Endpoint: at.String(), Before: said, Was: was, After: far.says(t), Is: far.shown(t)}}
			r := Examine(healthy(t), p)
			if got := names(r); want == "" && len(got) > 0 || want != "" && !slices.Equal(got, []string{want}) {
				t.Errorf("found %v: %+v", got, r.Findings)
			}
		})
	}
}
