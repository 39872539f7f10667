//go:build linux

package tun_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

// A peer answers echo requests of every size through a kernel's interface, where the namespace lets the process have sockets for them.
func TestEcho(t *testing.T) {
	hosts.Need(t)
	var raw [3]*tun.Device // without what the lab wraps around them
	l := hosts.New(t, func(o conformance.Options) (datapath.Datapath, error) {
		d, err := openTUN(o)
		if err == nil {
			raw[o.Host] = d.(*tun.Device)
		}
		return d, err
	})
	var keys [3]key.Private
	var own [3][]netip.Prefix
	for i := 1; i <= 2; i++ {
		keys[i] = key.NewPrivate()
		own[i] = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}), 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: 0, 2: 9, 15: byte(i)}), 128)}
		d, err := l.Open(conformance.Options{Host: i, PrivateKey: keys[i], Interface: datapath.Interface{MTU: 1420, Addresses: own[i]}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
	}
	for i := 1; i <= 2; i++ {
		other := 3 - i
		peer := datapath.Peer{PublicKey: keys[other].Public(), AllowedIPs: own[other], Endpoint: netip.AddrPortFrom(l.Outer(other, false), raw[other].ListenPort())}
		if err := raw[i].UpdatePeers([]datapath.Peer{peer}, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.Do(1, func() {
		echo := func(to netip.Addr, size int) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			return raw[1].Echo(ctx, to, size)
		}
		let := func(groups string) {
			if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		let("1 0")
		if err := echo(own[2][0].Addr(), 100); !errors.Is(err, os.ErrPermission) {
			t.Errorf("where nobody may: %v", err)
		}
		let("0 2147483647")
		for _, to := range own[2] {
			for _, size := range []int{100, 1280, 1420} {
				if err := echo(to.Addr(), size); err != nil {
					t.Errorf("%s, %d bytes: %v", to, size, err)
				}
			}
		}
		if err := echo(own[2][0].Addr(), 1421); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("more than the MTU: %v", err)
		}
	})
}
