package agent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// A gateway has the addresses of all outside peers beside its own: only its own say how long packets to it may be.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		peer wire.Peer
		want []string
	}{
		"member":             {wire.Peer{AllowedIPs: prefixes("10.7.0.2/32")}, nil},
		"gateway":            {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.0.0.0/8", "10.7.0.3/32", "10.7.0.4/32"), Owners: []int{0, 1, 0}}, []string{"10.7.0.4"}},
		"gateway without":    {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.7.0.3/32"), Owners: []int{1}}, nil},
		"gateway of nobody":  {wire.Peer{Gateway: true, AllowedIPs: prefixes("fd00::3/128"), Owners: []int{0}}, []string{"fd00::3"}},
		"owners are missing": {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.7.0.3/32")}, nil},
	} {
		var want []netip.Addr
		for _, a := range c.want {
			want = append(want, netip.MustParseAddr(a))
		}
		if got := answers(c.peer); !slices.Equal(got, want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	told := wire.Peer{PublicKey: key.NewPrivate().Public(), Gateway: true, AllowedIPs: prefixes("fd00::3/128"), Owners: []int{0}}
	d := (&member{}).translate(wire.Config{Interface: wire.Interface{Addresses: prefixes("10.7.0.1/32"), MTU: 1420}, Peers: []wire.Peer{told}})
	if got := d.peers[told.PublicKey].Answers; !slices.Equal(got, []netip.Addr{told.AllowedIPs[0].Addr()}) {
		t.Errorf("the datapath is told %s", got)
	}
}

// TestAnswersOfTheActive: whichever of two gateway pods is active, a member that knows the addresses of both finds out about the path.
func TestAnswersOfTheActive(t *testing.T) {
	pods, shared := prefixes("10.7.0.2/32", "10.7.0.3/32"), prefixes("10.7.0.9/32")
	for _, active := range pods {
		t.Run(active.Addr().String(), func(t *testing.T) {
			t.Parallel()
			own := datapath.Interface{Addresses: prefixes("10.7.0.1/32"), MTU: 1420}
			gateway, public := openEngine(t)
			gateway.SetHub(datapath.Interface{Addresses: slices.Concat(shared, []netip.Prefix{active}), Hub: true})
			gateway.SetProbes(datapath.Interface{Addresses: slices.Concat(shared, []netip.Prefix{active}), MTU: 1420})
			end, self := openEngine(t)
			end.SetProbes(own)
			must(t, gateway.UpdatePeers([]datapath.Peer{{PublicKey: self, AllowedIPs: own.Addresses}}, nil))
			d := new(member).translate(wire.Config{Interface: wire.Interface{Addresses: own.Addresses, MTU: own.MTU}, Peers: []wire.Peer{{
				PublicKey: public, Gateway: true, Outside: true, AllowedIPs: prefixes("10.7.0.2/32", "10.7.0.3/32", "10.7.0.9/32", "192.168.0.1/32"),
				Owners: []int{0, 0, 0, 1}, Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), gateway.ListenPort()),
			}}})
			must(t, end.UpdatePeers([]datapath.Peer{d.peers[public]}, nil))
			data := end.NewBatch(20)
			copy(data.Next(20), []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 7, 0, 1, 192, 168, 0, 1})
			end.Send(netip.MustParseAddr("192.168.0.1"), data)
			eventually(t, "the path is verified", func() error {
				peers, err := end.Peers()
				if err == nil && peers[0].MTUState != datapath.MTUVerified {
					err = errors.New(string(peers[0].MTUState))
				}
				return err
			})
		})
	}
}

func openEngine(t *testing.T) (*wireguard.Engine, key.Public) {
	t.Helper()
	private := key.NewPrivate()
	e, err := wireguard.Open(wireguard.Options{PrivateKey: private, MTU: func() int { return 1420 }, Deliver: func([][]byte, int) {}})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e, private.Public()
}
